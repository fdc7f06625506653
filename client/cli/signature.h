// File: signature.h
//
// What a model says about its values, as far as the command line needs it: the element type that a
// number has to be sent in, and the name of the output to print.
//
//   cli::ModelSignature signature = cli::SignatureOf(ModelSource::Formula("u = x^2"));
//   signature.outputs           // {"u"}
//   signature.TypeOf("x")       // DOUBLE
//
// It is a light look at the model, not a check of it: of a malformed model something is returned,
// and the server refuses it.
#ifndef GRADWIRE_CLIENT_CLI_SIGNATURE_H_
#define GRADWIRE_CLIENT_CLI_SIGNATURE_H_

#include <map>
#include <string>
#include <vector>

#include "client/model_source.h"
#include "engine/tensor/dtype.h"

namespace gradwire::cli {

struct ModelSignature {
  std::map<std::string, DType> types;  // as far as stated
  std::vector<std::string> outputs;
  // Of a value whose type is not stated: FLOAT in a model without a DOUBLE, else DOUBLE.
  DType default_type = DType::kDouble;

  DType TypeOf(const std::string& name) const;
};

ModelSignature SignatureOf(const ModelSource& model);

}  // namespace gradwire::cli

#endif  // GRADWIRE_CLIENT_CLI_SIGNATURE_H_
