// The derivatives of products, of straight-through gradients, and between a matrix and its entries: what autograd.py,
// straight_through.py and expand.py in sparsekern/ops say in Python, which takes longer. This is beyond the stable ABI:
// compiled for one version of torch, loaded by no other.
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/extension.h>
#include <torch/library.h>

#include "index.h"

namespace sparsekern {
namespace {

using at::Tensor;
using c10::OperatorHandle;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using torch::dynamo::autograd::CompiledNodeArgs;
using torch::dynamo::autograd::SwapSavedVariables;
using torch::jit::Stack;

// The backward operators have no formula of their own: their results would pass for constants.
constexpr const char* kNoSecondDerivatives =
    "sparse layers have no second derivatives by create_graph=True: take those of torch.func";

// An operator takes input, values, index, bias and options; its backward pass the output's gradient, input, values,
// index, three flags, and the options again if it needs them. Kernels empty the list that the index comes in: each call
// needs a new one.
constexpr size_t kInput = 0, kValues = 1, kIndex = 2, kBias = 3, kOptions = 4, kBackward = 7;

// dL/dW of a linear layer, or of a convolution with a window: the sizes of the kernel, strides, padding (top, bottom,
// left, right), dilations, groups.
Tensor weight_gradient(const Tensor& delta, const Tensor& input, at::IntArrayRef shape, at::IntArrayRef window) {
  if (window.empty()) {
    const auto rows = [](const Tensor& tensor) {
      return tensor.dim() == 1 ? tensor.unsqueeze(0) : tensor.flatten(0, -2);
    };
    return rows(delta).t().mm(rows(input));
  }
  const auto padding = window.slice(4, 4);
  const bool symmetric = padding[0] == padding[1] && padding[2] == padding[3];
  const Tensor padded =
      symmetric ? input : at::constant_pad_nd(input, {padding[2], padding[3], padding[0], padding[1]});
  const std::vector<int64_t> sides = {symmetric ? padding[0] : 0, symmetric ? padding[2] : 0};
  const Tensor weight = input.new_empty({1}).expand({shape[0], shape[1], window[0], window[1]});  // its shape matters
  const auto gradients =
      at::convolution_backward(delta, padded, weight, at::OptionalIntArrayRef(), window.slice(2, 2), sides,
                               window.slice(8, 2), false, {0, 0}, window[10], {false, true, false});
  return std::get<1>(gradients).reshape(shape);
}

// The same, where gradients that stand in for others have shapes of their own: by an operator that does not compare
// them.
Tensor traced_weight_gradient(const Tensor& delta, const Tensor& input, at::IntArrayRef shape, at::IntArrayRef window) {
  if (!window.empty()) return weight_gradient(delta, input, shape, window);
  const Tensor weight = input.new_empty({1}).expand(shape), none = input.new_empty({0});  // its shape matters
  Stack stack{delta, input, weight, std::vector<Tensor>(8, none), false, true, false, false};
  c10::Dispatcher::singleton().findSchemaOrThrow("sparsekern::masked_linear_backward", "").callBoxed(stack);
  return stack[1].toTensor();
}

struct ProductBackward : torch::autograd::Node {
  OperatorHandle op;
  SavedVariable input, values;
  std::vector<Tensor> index;  // never differentiated nor changed, and kept by its layer
  Stack options;
  std::vector<int64_t> shape, window;  // of a dense weight in the place of values, which has a gradient at every entry

  explicit ProductBackward(const OperatorHandle& backward) : op(backward) {}

  variable_list apply(variable_list&& gradients) override { return apply(gradients, weight_gradient); }

  variable_list apply(const variable_list& gradients, decltype(weight_gradient) gradient_of_weight) {
    TORCH_CHECK(!at::GradMode::is_enabled(), kNoSecondDerivatives);
    variable_list results(num_outputs());
    if (!gradients[0].defined()) return results;
    std::lock_guard<std::mutex> lock(mutex_);
    const auto self = getptr();
    const Tensor h = input.unpack(self);
    std::array<bool, 3> needed = {};
    for (size_t i = 0; i < results.size(); ++i) needed[i] = task_should_compute_output(i);
    if (!shape.empty() && needed[1]) {
      results[1] = gradient_of_weight(gradients[0], h, shape, window);
      needed[1] = false;
    }
    Stack stack{gradients[0], h, values.unpack(self), index, needed[0], needed[1], needed[2]};
    stack.insert(stack.end(), options.begin(), options.end());
    op.callBoxed(stack);
    for (size_t i = 0; i < results.size(); ++i)
      if (needed[i]) results[i] = std::move(stack[i]).toTensor();
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
    args.collect(shape);
    args.collect(window);
  }

  variable_list apply_with_saved(const variable_list& gradients, SwapSavedVariables& saved) override {
    saved.before(input), saved.before(values), saved.before(index), saved.before(options);
    variable_list results = apply(gradients, traced_weight_gradient);
    saved.after(input), saved.after(values), saved.after(index), saved.after(options);
    return results;
  }
};

// What holds a node of the graph: a shared pointer, in newer versions an intrusive one. Each deletes chains of nodes
// without recursion.
template <class Pointer = decltype(torch::autograd::Edge::function)>
Pointer held(torch::autograd::Node* node) {
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

// Computes a product. A dense weight, if there is one, has a gradient at every entry in the place of the values, which
// are its entries at the pattern.
void product(const OperatorHandle& op, Stack* stack, const Tensor& weight, std::vector<int64_t> window) {
  const auto arguments = stack->end() - op.schema().arguments().size();
  const Tensor input = arguments[kInput].toTensor(), values = arguments[kValues].toTensor();
  const Tensor bias = tensor_of(arguments[kBias]);
  const Tensor& learned = weight.defined() ? weight : values;
  const Tensor d_input = tangent_of(input), d_values = tangent_of(values), d_bias = tangent_of(bias);
  if (d_input.defined() || d_values.defined() || d_bias.defined()) {
    Tensor output = with_tangent(op, Stack(arguments, stack->end()), d_input, d_values, d_bias);
    stack->erase(arguments, stack->end());
    stack->emplace_back(std::move(output));
    return;
  }
  ProductBackward* node = nullptr;
  decltype(held(node)) holder;
  if (torch::autograd::compute_requires_grad(input, learned, bias)) {
    const auto name = op.operator_name().name + "_backward";
    const auto backward = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
    holder = held(node = new ProductBackward(backward));
    node->set_next_edges(torch::autograd::collect_next_edges(input, learned, bias));
    node->input = SavedVariable(input, false);
    node->values = SavedVariable(values, false);
    node->index = arguments[kIndex].toTensorVector();
    if (backward.schema().arguments().size() > kBackward) node->options.assign(arguments + kOptions, stack->end());
    if (weight.defined()) node->shape = weight.sizes().vec(), node->window = std::move(window);
  }
  {
    // Below the record of views, too: a result of which a kernel made one may be changed in place as any other.
    at::AutoDispatchBelowADInplaceOrView guard;
    arguments[kIndex] = arguments[kIndex].toTensorVector();  // that of a traced graph is a constant
    op.callBoxed(stack);
  }
  if (node) torch::autograd::set_history(stack->back().toTensor(), holder);
}

void product(const OperatorHandle& op, Stack* stack) { product(op, stack, Tensor(), {}); }

// ---- the entries of a matrix at a pattern, and back

// Collects entries of a matrix to `size` values, or expands values to a matrix of `size` columns.
Tensor rearranged(const Tensor& given, const Tensor& row_ptr, const Tensor& columns, int64_t size, bool collects);

struct RearrangedBackward : torch::autograd::Node {
  Tensor row_ptr, columns;  // never differentiated nor changed
  int64_t size = 0;
  bool collects = false;

  variable_list apply(variable_list&& gradients) override {
    if (!gradients[0].defined()) return {Tensor()};
    return {rearranged(gradients[0], row_ptr, columns, size, collects)};
  }

  std::string name() const override { return collects ? "DenseWeightBackward" : "ActiveValuesBackward"; }

  void compiled_args(CompiledNodeArgs& args) const override {
    args.collect(row_ptr);
    args.collect(columns);
    args.collect(size);
    args.collect(collects);
  }

  variable_list apply_with_saved(const variable_list& gradients, SwapSavedVariables& saved) override {
    saved.before(row_ptr), saved.before(columns);
    variable_list results = apply(variable_list(gradients));
    saved.after(row_ptr), saved.after(columns);
    return results;
  }
};

Tensor rearranged(const Tensor& given, const Tensor& row_ptr, const Tensor& columns, int64_t size, bool collects) {
  const auto call = [&](const std::string& name, Stack stack) {
    const auto full = "sparsekern::" + name + (columns.dim() == 2 ? "_bits" : "");
    c10::Dispatcher::singleton().findSchemaOrThrow(full.c_str(), "").callBoxed(stack);
    return stack;
  };
  const int64_t rows = row_ptr.size(0) - 1;
  Tensor result;
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    if (collects) {
      result = given.new_zeros({size});
      call("collect", {given, row_ptr, columns, 0, rows, result});
    } else {
      result = call("expand", {given.contiguous(), row_ptr, columns, 0, rows, size}).back().toTensor();
    }
  }
  if (!torch::autograd::compute_requires_grad(given)) return result;
  auto* node = new RearrangedBackward;
  const auto holder = held(node);
  node->set_next_edges(torch::autograd::collect_next_edges(given));
  node->row_ptr = row_ptr, node->columns = columns;
  node->size = given.size(-1), node->collects = !collects;
  torch::autograd::set_history(result, holder);
  return result;
}

Tensor active_values(const Tensor& weight, const Tensor& row_ptr, const Tensor& columns, int64_t capacity) {
  return rearranged(weight, row_ptr, columns, capacity, true);
}

Tensor dense_weight(const Tensor& values, const Tensor& row_ptr, const Tensor& columns, int64_t cols) {
  return rearranged(values, row_ptr, columns, cols, false);
}

Tensor straight_product(const std::string& name, const Tensor& input, const Tensor& weight, std::vector<Tensor> index,
                        const std::optional<Tensor>& bias, std::vector<int64_t> window) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), "");
  const Tensor &row_ptr = index[kRowPtr], &col = index[kCol], &compact = index[kCompact], &bits = index[kBits];
  const Tensor& columns = col.dim() == 1 ? col : compact.numel() ? compact : bits;
  Tensor values;
  {
    at::NoGradGuard guard;
    values = rearranged(weight.dim() == 2 ? weight : weight.flatten(1), row_ptr, columns, col.size(0), true);
  }
  Stack stack{input, values, index, bias};
  if (window.empty()) {
    stack.emplace_back(row_ptr.size(0) - 1);
  } else {
    const at::IntArrayRef w = window;
    for (const auto& part : {w.slice(0, 2), w.slice(2, 2), w.slice(4, 4), w.slice(8, 2)}) stack.emplace_back(part);
    stack.emplace_back(window[10]);
  }
  product(op, &stack, weight, std::move(window));
  return stack.back().toTensor();
}

void differentiate(const std::string& name) {
  static auto& library =
      *new torch::Library(torch::Library::IMPL, "sparsekern", c10::DispatchKey::Autograd, __FILE__, __LINE__);
  library.impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&product>());
}

}  // namespace
}  // namespace sparsekern

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using torch::wrap_pybind_function_no_gil;
  m.doc() = "Derivatives, for one version of torch";
  m.def("differentiate", &sparsekern::differentiate, "Registers the derivatives of an operator.");
  m.def("active_values", wrap_pybind_function_no_gil(&sparsekern::active_values),
        "Collects the entries of a matrix at a pattern.");
  m.def("dense_weight", wrap_pybind_function_no_gil(&sparsekern::dense_weight), "Expands them to the matrix.");
  m.def("straight_product", wrap_pybind_function_no_gil(&sparsekern::straight_product),
        "Computes a product with the entries of a dense weight, which has a gradient at every entry.");
}
