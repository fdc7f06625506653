// The contract as text: what clients outside this repository rely on.
#ifndef GRADWIRE_TESTS_UNIT_PROTO_CONTRACT_H_
#define GRADWIRE_TESTS_UNIT_PROTO_CONTRACT_H_

#include <string>
#include <vector>

namespace gradwire {

// One line per field ("Message.field = number: type"), enum value ("Enum.VALUE = number") and
// message without fields ("Message").
const std::vector<std::string>& ContractOfV1();
// The official numbers of google.rpc: ours is a copy.
const std::vector<std::string>& ContractOfGoogleRpc();

}  // namespace gradwire

#endif  // GRADWIRE_TESTS_UNIT_PROTO_CONTRACT_H_
