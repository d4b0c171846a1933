// dkmp_plugin::linear: x W^T + b as aten::linear, on CPUs whose AVX-512 units ATen leaves idle.
//
// ATen multiplies float32 matrices with MKL, which on processors that are not Intel's stays with 256-bit vectors; the
// oneDNN that torch ships takes the 512-bit ones of any maker and is twice as fast there. torch offers it for such
// tensors as the op below (its compiler calls it for linear layers), without derivatives. They are linear maps again.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/linear.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "isa.h"

namespace dkmp {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Below this many products of numbers the call takes longer than MKL's slower product.
constexpr int64_t kFewestProducts = 1 << 20;

const std::optional<c10::OperatorHandle>& onednn_linear() {
  static const auto op = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
  return op;
}

bool wide_vectors_left_idle() {
#ifdef DKMP_X86_LEVELS
  static const bool idle = isa_level() == 4 && !__builtin_cpu_is("intel") && onednn_linear().has_value();
  return idle;
#else
  return false;
#endif
}

// Float numbers in memory: not those of torch's compiler, of its function transforms, nor with forward derivatives.
bool is_plain_float(const Tensor& x) {
  using Key = c10::DispatchKey;
  return x.device().is_cpu() && x.scalar_type() == at::kFloat && x.layout() == at::kStrided &&
         !x.key_set().has_any(c10::DispatchKeySet(
             {Key::Python, Key::Functionalize, Key::FuncTorchBatched, Key::FuncTorchGradWrapper})) &&
         !x._fw_grad(/*level=*/0).defined();
}

// Autocast would compute in bfloat16, function transforms would differentiate by rules of their own.
bool within_autocast_or_transform() {
  using Key = c10::DispatchKey;
  return !c10::impl::tls_is_dispatch_key_excluded(Key::AutocastCPU) ||
         c10::impl::tls_is_dispatch_key_included(Key::FuncTorchDynamicLayerFrontMode);
}

// Without gaps between rows, or columns: for weights that have some oneDNN takes hundreds of times as long. The
// gradient of a part of something is such a view, and the weight where that gradient is differentiated.
bool is_dense(const Tensor& x) { return x.is_contiguous() || (x.dim() == 2 && x.t().is_contiguous()); }

bool suits_onednn(const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
  return wide_vectors_left_idle() && at::globalContext().userEnabledMkldnn() && !within_autocast_or_transform() &&
         is_plain_float(x) && is_plain_float(weight) && (!bias || (is_plain_float(*bias) && bias->dim() == 1)) &&
         x.dim() >= 2 && weight.dim() == 2 && is_dense(x) && is_dense(weight) && x.size(-1) == weight.size(1) &&
         (!bias || bias->size(0) == weight.size(0)) && x.numel() * weight.size(0) >= kFewestProducts;
}

// Boxed: the types of the arguments' strings and lists differ between versions of torch.
Tensor multiply(const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
  torch::jit::Stack stack;
  stack.emplace_back(x);
  stack.emplace_back(weight);
  stack.emplace_back(bias);
  stack.emplace_back("none");
  stack.emplace_back(c10::List<std::optional<at::Scalar>>());
  stack.emplace_back("");
  onednn_linear()->callBoxed(stack);
  return stack.back().toTensor();
}

Tensor linear_map(const Tensor& x, const Tensor& weight, const MaybeTensor& bias);

struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
    at::AutoDispatchBelowADInplaceOrView guard;
    // What a frozen model does not need is not kept: memory that is free again is still in cache.
    context->save_for_backward({weight.requires_grad() ? x : Tensor(), x.requires_grad() ? weight : Tensor()});
    context->saved_data["biased"] = bias.has_value();
    return multiply(x, weight, bias);
  }

  static variable_list backward(AutogradContext* context, variable_list upstream) {
    const variable_list saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], &u = upstream[0];
    variable_list gradients(3);
    if (context->needs_input_grad(0)) gradients[0] = linear_map(u, weight.t(), std::nullopt);
    const auto rows = [](const Tensor& t) { return t.reshape({-1, t.size(-1)}); };
    if (context->needs_input_grad(1)) gradients[1] = linear_map(rows(u).t(), rows(x).t(), std::nullopt);
    if (context->saved_data["biased"].toBool() && context->needs_input_grad(2)) gradients[2] = rows(u).sum(0);
    return gradients;
  }
};

Tensor linear_map(const Tensor& x, const Tensor& weight, const MaybeTensor& bias) {
  return suits_onednn(x, weight, bias) ? Linear::apply(x, weight, bias) : at::linear(x, weight, bias);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(dkmp_plugin, library) {
  library.def("linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor", linear_map);
}

}  // namespace dkmp
