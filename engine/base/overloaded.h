// Overloaded: one function object of several lambdas, for std::visit.
//
//   std::visit(Overloaded{[](const Zero&) {...}, [](const Linear& l) {...}}, derivative);
#ifndef GRADWIRE_ENGINE_BASE_OVERLOADED_H_
#define GRADWIRE_ENGINE_BASE_OVERLOADED_H_

namespace gradwire {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

}  // namespace gradwire

#endif  // GRADWIRE_ENGINE_BASE_OVERLOADED_H_
