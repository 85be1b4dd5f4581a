#include "arguments.h"

#include <climits>
#include <cmath>
#include <string>

#include "errors.h"

namespace isthmus {

uint64_t Integer(const Napi::Value& value, const char* name) {
  if (!value.IsNumber()) throw WrongType(value.Env(), std::string(name) + " must be a number");
  constexpr double kMaxSafeInteger = 9007199254740991.0;
  const double number = value.As<Napi::Number>().DoubleValue();
  // Written so that NaN fails the test.
  if (!(number >= 0 && number <= kMaxSafeInteger && std::trunc(number) == number)) {
    throw OutOfRange(value.Env(), std::string(name) + " must be an integer from 0 to 2^53 - 1, is " +
                                      value.ToString().Utf8Value());
  }
  return static_cast<uint64_t>(number);
}

int Descriptor(const Napi::Value& value, const char* name) {
  const uint64_t number = Integer(value, name);
  if (number > INT_MAX) {
    throw OutOfRange(value.Env(), std::string(name) + " must be a file descriptor, is " + std::to_string(number));
  }
  return static_cast<int>(number);
}

bool Option(const Napi::Value& options, const char* name) {
  if (options.IsUndefined()) return false;
  if (!options.IsObject()) throw WrongType(options.Env(), "options must be an object");
  const Napi::Value value = options.As<Napi::Object>().Get(name);
  if (value.IsUndefined()) return false;
  if (!value.IsBoolean()) throw WrongType(options.Env(), std::string(name) + " must be a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::optional<uint64_t> IntegerOption(const Napi::Value& options, const char* name) {
  if (options.IsUndefined()) return std::nullopt;
  if (!options.IsObject()) throw WrongType(options.Env(), "options must be an object");
  const Napi::Value value = options.As<Napi::Object>().Get(name);
  if (value.IsUndefined()) return std::nullopt;
  return Integer(value, name);
}

}  // namespace isthmus
