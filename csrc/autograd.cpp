// The derivatives of products: what sparsekern/ops/autograd.py says in Python, which takes longer. This is
// beyond the stable ABI: compiled for one version of torch, loaded by no other.
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/extension.h>
#include <torch/library.h>

namespace sparsekern {
namespace {

using at::Tensor;
using c10::OperatorHandle;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using torch::dynamo::autograd::CompiledNodeArgs;
using torch::dynamo::autograd::SwapSavedVariables;
using torch::jit::Stack;

// An operator takes input, values, index, bias and options; its backward pass the output's gradient, input, values,
// index, three flags, and the options again if it needs them. Kernels empty the list that the index comes in: each call
// needs a new one.
constexpr size_t kInput = 0, kValues = 1, kIndex = 2, kBias = 3, kOptions = 4, kBackward = 7;

struct ProductBackward : torch::autograd::Node {
  OperatorHandle op;
  SavedVariable input, values;
  std::vector<Tensor> index;  // never differentiated nor changed, and kept by its layer
  Stack options;

  explicit ProductBackward(const OperatorHandle& backward) : op(backward) {}

  variable_list apply(variable_list&& gradients) override {
    // The operator below has no formula of its own: its results would pass for constants.
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "sparse layers have no second derivatives: do without create_graph=True and torch.func");
    variable_list results(num_outputs());
    if (!gradients[0].defined()) return results;
    std::lock_guard<std::mutex> lock(mutex_);
    const auto self = getptr();
    Stack stack{gradients[0], input.unpack(self), values.unpack(self), index};
    for (size_t i = 0; i < results.size(); ++i) stack.emplace_back(task_should_compute_output(i));
    stack.insert(stack.end(), options.begin(), options.end());
    op.callBoxed(stack);
    for (size_t i = 0; i < results.size(); ++i)
      if (task_should_compute_output(i)) results[i] = std::move(stack[i]).toTensor();
    return results;
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    input.reset_data();
    values.reset_data();
    index.clear();
  }

  std::string name() const override { return "ProductBackward"; }

  // Compiled autograd: what the pass depends on, and the pass with stand-ins for its tensors.
  void compiled_args(CompiledNodeArgs& args) const override {
    args.collect(op.operator_name().name);
    args.collect(input, false);
    args.collect(values, false);
    args.collect(index);
    args.collect(options);
  }

  variable_list apply_with_saved(const variable_list& gradients, SwapSavedVariables& saved) override {
    saved.before(input), saved.before(values), saved.before(index), saved.before(options);
    variable_list results = apply(variable_list(gradients));
    saved.after(input), saved.after(values), saved.after(index), saved.after(options);
    return results;
  }
};

// What holds a node of the graph: a shared pointer, in newer versions an intrusive one. Each deletes chains of nodes
// without recursion.
template <class Pointer = decltype(torch::autograd::Edge::function)>
Pointer held(ProductBackward* node) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>)
    return Pointer(node, [](auto* last) { deleteNode(last); });
  else
    return Pointer::unsafe_steal_from_new(node);
}

Tensor tensor_of(const c10::IValue& value) { return value.isNone() ? Tensor() : value.toTensor(); }

void product(const OperatorHandle& op, Stack* stack);

// Tangents: the product is linear in each tensor.
Tensor with_tangent(const OperatorHandle& op, const Stack& arguments, const Tensor& d_input, const Tensor& d_values,
                    const Tensor& d_bias) {
  const std::vector<Tensor> index = arguments[kIndex].toTensorVector();
  const auto of = [&](Stack changed) {
    changed[kIndex] = index;
    product(op, &changed);
    return changed.back().toTensor();
  };
  const auto with = [&](Stack changed, size_t place, const Tensor& tensor) {
    changed[place] = tensor.defined() ? c10::IValue(tensor) : c10::IValue();
    return changed;
  };
  Stack primal = arguments;
  for (size_t place : {kInput, kValues, kBias})
    if (!primal[place].isNone()) primal[place] = std::get<0>(at::_unpack_dual(primal[place].toTensor(), 0));
  const Tensor moved = d_input.defined() ? d_input : at::zeros_like(primal[kInput].toTensor());
  Tensor tangent = of(with(with(primal, kInput, moved), kBias, d_bias));
  if (d_values.defined()) tangent = tangent + of(with(with(primal, kValues, d_values), kBias, Tensor()));
  return at::_make_dual(of(primal), tangent, 0);
}

Tensor tangent_of(const Tensor& tensor) { return tensor.defined() ? tensor._fw_grad(0) : Tensor(); }

void product(const OperatorHandle& op, Stack* stack) {
  const auto arguments = stack->end() - op.schema().arguments().size();
  const Tensor input = arguments[kInput].toTensor(), values = arguments[kValues].toTensor();
  const Tensor bias = tensor_of(arguments[kBias]);
  const Tensor d_input = tangent_of(input), d_values = tangent_of(values), d_bias = tangent_of(bias);
  if (d_input.defined() || d_values.defined() || d_bias.defined()) {
    Tensor output = with_tangent(op, Stack(arguments, stack->end()), d_input, d_values, d_bias);
    stack->erase(arguments, stack->end());
    stack->emplace_back(std::move(output));
    return;
  }
  ProductBackward* node = nullptr;
  decltype(held(node)) holder;
  if (torch::autograd::compute_requires_grad(input, values, bias)) {
    const auto name = op.operator_name().name + "_backward";
    const auto backward = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
    holder = held(node = new ProductBackward(backward));
    node->set_next_edges(torch::autograd::collect_next_edges(input, values, bias));
    node->input = SavedVariable(input, false);
    node->values = SavedVariable(values, false);
    node->index = arguments[kIndex].toTensorVector();
    if (backward.schema().arguments().size() > kBackward) node->options.assign(arguments + kOptions, stack->end());
  }
  {
    // Below the record of views, too: a result of which a kernel made one may be changed in place as any other.
    at::AutoDispatchBelowADInplaceOrView guard;
    arguments[kIndex] = arguments[kIndex].toTensorVector();  // that of a traced graph is a constant
    op.callBoxed(stack);
  }
  if (node) torch::autograd::set_history(stack->back().toTensor(), holder);
}

void differentiate(const std::string& name) {
  static auto& library =
      *new torch::Library(torch::Library::IMPL, "sparsekern", c10::DispatchKey::Autograd, __FILE__, __LINE__);
  library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&product>());
}

}  // namespace
}  // namespace sparsekern

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Derivatives of products, for one version of torch";
  m.def("differentiate", &sparsekern::differentiate, "Registers the derivatives of an operator.");
}
