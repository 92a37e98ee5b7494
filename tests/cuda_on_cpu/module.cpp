// The Python module: the options of launches, their records, and who watches them.
#include <pybind11/pybind11.h>

#include "buffers.h"

namespace cuda_on_cpu {
namespace {

namespace py = pybind11;

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
    const py::gil_scoped_acquire held;  // which torch's dispatcher has released
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

}  // namespace cuda_on_cpu

PYBIND11_MODULE(cuda_on_cpu_kernels, module) {
  using namespace cuda_on_cpu;
  module.def(
      "configure", [](uint64_t seed, bool count) { configure({seed, count}); }, py::arg("seed"), py::arg("count"));
  module.def("take_records", &records);
  module.def("watch", &watch_launches);
}
