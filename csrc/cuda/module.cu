// The extension module of the CUDA kernels: facts about the build. Operators register themselves, one file each.
#include <Python.h>

#define TEXT(x) #x
#define VERSION(major, minor) TEXT(major) "." TEXT(minor)

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__CUDA() {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_CUDA", "CUDA kernels of sparsekern", -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module == nullptr) return nullptr;
  if (PyModule_AddStringConstant(module, "version", VERSION(__CUDACC_VER_MAJOR__, __CUDACC_VER_MINOR__)) < 0 ||
      PyModule_AddStringConstant(module, "architectures", SPARSEKERN_ARCHITECTURES) < 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
