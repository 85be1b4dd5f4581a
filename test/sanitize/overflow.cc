// Three deliberate faults, to check that each of them is reported. Not a part of the package.
#include <node_api.h>

#include <climits>
#include <cstdlib>

namespace {

napi_value Overflow(napi_env, napi_callback_info) {
  // Volatile: with a size known to the compiler, UndefinedBehaviorSanitizer would report the fault.
  volatile size_t size = 8;
  volatile char* const bytes = static_cast<char*>(std::malloc(size));
  bytes[size] = 1;
  std::free(const_cast<char*>(bytes));
  return nullptr;
}

napi_value UseAfterFree(napi_env, napi_callback_info) {
  volatile char* const bytes = static_cast<char*>(std::malloc(8));
  std::free(const_cast<char*>(bytes));
  bytes[0] = 1;
  return nullptr;
}

napi_value Undefined(napi_env, napi_callback_info) {
  volatile int most = INT_MAX;
  most = most + 1;
  return nullptr;
}

void Export(napi_env env, napi_value exports, const char* name, napi_callback function) {
  napi_value value;
  napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value);
  napi_set_named_property(env, exports, name, value);
}

napi_value Init(napi_env env, napi_value exports) {
  Export(env, exports, "overflow", Overflow);
  Export(env, exports, "useAfterFree", UseAfterFree);
  Export(env, exports, "undefined", Undefined);
  return exports;
}

}  // namespace

NAPI_MODULE(NODE_GYP_MODULE_NAME, Init)
