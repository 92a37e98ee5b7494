// The Python module: every bindings_*.cpp in it, the options of launches and their records.
#include "bindings.h"

#include <string.h>

#include "buffers.h"

namespace cuda_on_cpu {
namespace {

std::vector<Binder>& binders() {
  static std::vector<Binder> binders;
  return binders;
}

const char* const dtype_names[] = {"float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "bool"};

py::object torch_dtype(DType dtype) { return py::module_::import("torch").attr(dtype_names[static_cast<int>(dtype)]); }

DType dtype_of(const py::object& tensor) {
  const std::string name = py::str(tensor.attr("dtype"));  // "torch.float32"
  for (int i = 0; i < 8; ++i) {
    if (name.compare(6, std::string::npos, dtype_names[i]) == 0) return static_cast<DType>(i);
  }
  throw py::type_error("no kernel takes tensors of " + name);
}

py::dict traffic(const Traffic& traffic) {
  return py::dict(py::arg("accesses") = traffic.accesses, py::arg("sectors") = traffic.sectors,
                  py::arg("bytes") = traffic.bytes, py::arg("distinct_sectors") = traffic.distinct_sectors);
}

py::tuple triple(dim3 value) { return py::make_tuple(value.x, value.y, value.z); }

py::list records() {
  py::list list;
  for (const LaunchRecord& record : take_records()) {
    list.append(py::dict(py::arg("kernel") = record.kernel, py::arg("grid") = triple(record.grid),
                         py::arg("block") = triple(record.block), py::arg("shared_bytes") = record.shared_bytes,
                         py::arg("read") = traffic(record.read), py::arg("written") = traffic(record.write),
                         py::arg("atomic") = traffic(record.atomic)));
  }
  return list;
}

// watcher(symbol, grid, block, shared bytes, parameters, [(begin, end, writeable), ...]) or None.
void watch_launches(const py::object& watcher) {
  if (watcher.is_none()) return watch(nullptr);
  watch([watcher](const Arrival& arrival) {
    py::list buffers;
    for (const std::unique_ptr<Range>& range : all_ranges()) {
      buffers.append(py::make_tuple(range->begin, range->end, range->writeable));
    }
    const py::bytes parameters(reinterpret_cast<const char*>(arrival.parameters.data()), arrival.parameters.size());
    return watcher(arrival.symbol == nullptr ? "" : arrival.symbol, triple(arrival.grid), triple(arrival.block),
                   arrival.shared_bytes, parameters, buffers)
        .cast<bool>();
  });
}

}  // namespace

Tensor::Tensor(py::object tensor, bool writeable)
    : object_(std::move(tensor)),
      writeable_(writeable),
      data_(reinterpret_cast<void*>(object_.attr("data_ptr")().cast<uintptr_t>())),
      dtype_(dtype_of(object_)),
      element_size_(object_.attr("element_size")().cast<int64_t>()),
      sizes_(object_.attr("shape").cast<std::vector<int64_t>>()),
      strides_(object_.attr("stride")().cast<std::vector<int64_t>>()) {
  int64_t last = 0;
  for (size_t axis = 0; axis < sizes_.size(); ++axis) last += (sizes_[axis] - 1) * strides_[axis];
  const size_t bytes = numel() == 0 ? 0 : static_cast<size_t>((last + 1) * element_size_);
  buffer_ = std::make_shared<Buffer>(data_, bytes, writeable);
}

int64_t Tensor::numel() const {
  int64_t count = 1;
  for (const int64_t size : sizes_) count *= size;
  return count;
}

Tensor new_empty_strided(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, DType dtype) {
  const py::object torch = py::module_::import("torch");
  const Tensor tensor(torch.attr("empty_strided")(sizes, strides, py::arg("dtype") = torch_dtype(dtype)), true);
  const py::object storage = tensor.object().attr("untyped_storage")();
  const size_t bytes = storage.attr("nbytes")().cast<size_t>();
  if (bytes > 0) memset(reinterpret_cast<void*>(storage.attr("data_ptr")().cast<uintptr_t>()), 0xff, bytes);
  return tensor;
}

Tensor new_empty(const std::vector<int64_t>& sizes, DType dtype) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t axis = sizes.size(); axis > 1; --axis) {
    strides[axis - 2] = strides[axis - 1] * std::max<int64_t>(sizes[axis - 1], 1);
  }
  return new_empty_strided(sizes, strides, dtype);
}

Binding::Binding(Binder binder) { binders().push_back(binder); }

}  // namespace cuda_on_cpu

PYBIND11_MODULE(cuda_on_cpu_kernels, module) {
  using namespace cuda_on_cpu;
  py::register_exception<Error>(module, "KernelError", PyExc_RuntimeError);
  module.def(
      "configure", [](uint64_t seed, bool count) { configure({seed, count}); }, py::arg("seed"), py::arg("count"));
  module.def("take_records", &records);
  module.def("watch", &watch_launches);
  for (const Binder binder : binders()) binder(module);
}
