// libturboquant_cuda on demand: no program that links libturboquant needs a GPU or a driver.
#include <dlfcn.h>

#include <cstdio>
#include <string>

#include "capi/boundary.h"
#include "turboquant/turboquant.h"
#include "turboquant/turboquant_cuda.h"

namespace turboquant::capi {
namespace {

// The folder of the file that holds this code, with a slash; "" if that is unknown.
std::string OwnFolder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&tq_cuda_load), &info) == 0 ||
      info.dli_fname == nullptr) {
    return "";
  }
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "" : file.substr(0, slash + 1);
}

// Never unloaded: streams and captured graphs may hold its kernels.
void* Open(const std::string& file) {
  return dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

tq_status OpenLibrary(const char* path, void** library) {
  std::string file;
  if (path != nullptr) {
    file = path;
    *library = Open(file);
  } else {
    file = TURBOQUANT_CUDA_SONAME;
    const std::string folder = OwnFolder();
    *library = folder.empty() ? nullptr : Open(folder + file);
    if (*library == nullptr) *library = Open(file);
  }
  if (*library != nullptr) return TQ_OK;
  const char* why = dlerror();
  return Fail(TQ_ERROR_NOT_FOUND,
              (file +
               " cannot be loaded: build turboquant with -DTURBOQUANT_CUDA=ON and install "
               "it, or give the path of the library. (" +
               (why != nullptr ? why : "no reason known") + ")")
                  .c_str());
}

template <typename Function>
bool Find(void* library, const char* name, Function* function, const char** missing) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) {
    *missing = name;
    return false;
  }
  *function = reinterpret_cast<Function>(symbol);
  return true;
}

tq_status FindFunctions(void* library, tq_cuda_functions* f) {
  const char* missing = nullptr;
  if (Find(library, "tq_cuda_api_version", &f->api_version, &missing)) {
    const int32_t version = f->api_version();
    if (version != TQ_CUDA_API_VERSION) {
      return Fail(TQ_ERROR_UNSUPPORTED,
                  ("libturboquant_cuda speaks version " + std::to_string(version) +
                   " of the CUDA interface, this library version " +
                   std::to_string(TQ_CUDA_API_VERSION) + ": install the same release of both.")
                      .c_str());
    }
  }
  const bool found = missing == nullptr &&
                     Find(library, "tq_cuda_check_device", &f->check_device, &missing) &&
                     Find(library, "tq_cuda_query_device", &f->query_device, &missing) &&
                     Find(library, "tq_cuda_make_rotation", &f->make_rotation, &missing) &&
                     Find(library, "tq_cuda_record_bytes", &f->record_bytes, &missing) &&
                     Find(library, "tq_cuda_supports", &f->supports, &missing) &&
                     Find(library, "tq_cuda_plan_attention", &f->plan_attention, &missing) &&
                     Find(library, "tq_cuda_attend", &f->attend, &missing) &&
                     Find(library, "tq_cuda_plan_prefill", &f->plan_prefill, &missing) &&
                     Find(library, "tq_cuda_prefill", &f->prefill, &missing) &&
                     Find(library, "tq_cuda_encode", &f->encode, &missing) &&
                     Find(library, "tq_cuda_page_means", &f->page_means, &missing) &&
                     Find(library, "tq_cuda_decode_rows", &f->decode_rows, &missing) &&
                     Find(library, "tq_cuda_scores", &f->scores, &missing) &&
                     Find(library, "tq_cuda_rotate", &f->rotate, &missing) &&
                     Find(library, "tq_cuda_merge", &f->merge, &missing) &&
                     Find(library, "tq_cuda_dense_create", &f->dense_create, &missing) &&
                     Find(library, "tq_cuda_dense_destroy", &f->dense_destroy, &missing);
  if (found) return TQ_OK;
  return Fail(TQ_ERROR_UNSUPPORTED, (std::string("the loaded library has no function ") + missing +
                                     ": it is not libturboquant_cuda of this release.")
                                        .c_str());
}

}  // namespace
}  // namespace turboquant::capi

tq_status tq_cuda_load(const char* path, tq_cuda_functions* functions) {
  using namespace turboquant::capi;  // NOLINT(google-build-using-namespace)
  return Guard([&]() -> tq_status {
    if (functions == nullptr) return FailNull("functions");
    tq_cuda_functions found{};
    void* library = nullptr;
    tq_status status = OpenLibrary(path, &library);
    if (status == TQ_OK) status = FindFunctions(library, &found);
    if (status != TQ_OK) return status;
    char reason[256] = "";
    if (found.check_device(reason, sizeof(reason)) != TQ_CUDA_OK) {
      return Fail(TQ_ERROR_UNSUPPORTED, reason);
    }
    return WriteStruct(found, functions, "functions");
  });
}
