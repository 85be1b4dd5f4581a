#include "mapping.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "arguments.h"
#include "errors.h"
#include "locks.h"
#include "pages.h"
#include "status.h"

namespace isthmus {

namespace {

std::string Bytes(uint64_t length) { return std::to_string(length) + " bytes"; }

void RequirePageMultiple(Napi::Env env, uint64_t value, const char* name) {
  if (value % PageSize() == 0) return;
  throw OutOfRange(env, std::string(name) + " must be a multiple of the page size, " + std::to_string(PageSize()) +
                            ", is " + std::to_string(value));
}

// The address of `buffer[offset, offset + length)`.
void* WindowOf(Napi::Env env, Napi::ArrayBuffer buffer, uint64_t offset, uint64_t length) {
  const uint64_t size = buffer.ByteLength();
  if (length > size || offset > size - length) {
    throw OutOfRange(env, "the window of " + Bytes(length) + " at " + std::to_string(offset) +
                              " does not lie within the buffer of " + Bytes(size));
  }
  char* const window = static_cast<char*>(buffer.Data()) + offset;
  // The memory of Wasm starts at a page boundary; other buffers may not, so the offset alone proves nothing.
  const size_t excess = reinterpret_cast<uintptr_t>(window) % PageSize();
  if (excess != 0) {
    throw OutOfRange(env, "the window at offset " + std::to_string(offset) + " must start at a page, starts " +
                              Bytes(excess) + " after one");
  }
  return window;
}

// Pages beyond the end of a regular file can be mapped; an access to one is a SIGBUS. Devices have no size here; their
// drivers check the range. Returns 0 or an errno; `*size` is that of the file, or the largest for a device.
int SizeOfFile(int fd, uint64_t* size) {
  FileStatus status;
  const int error = StatusOf(fd, &status);
  if (error == 0) *size = S_ISREG(status.mode) ? status.size : UINT64_MAX;
  return error;
}

void RequireWithinFile(Napi::Env env, int fd, uint64_t offset, uint64_t length) {
  uint64_t size = 0;
  const int error = SizeOfFile(fd, &size);
  if (error != 0) throw SystemError(env, error, "statx", "statx of fd " + std::to_string(fd));
  if (length > size || offset > size - length) {
    throw OutOfRange(env, Bytes(length) + " at file offset " + std::to_string(offset) +
                              " reach past the end of the file of " + Bytes(size));
  }
}

// The word at `offset` of the buffer, outside of the window.
std::atomic<uint32_t>* WordOf(Napi::Env env, Napi::ArrayBuffer buffer, uint64_t offset, const void* window,
                              uint64_t length) {
  char* const begin = static_cast<char*>(buffer.Data());
  const uint64_t size = buffer.ByteLength();
  const uint64_t from = static_cast<uint64_t>(static_cast<const char*>(window) - begin);
  const bool within = offset <= size && size - offset >= sizeof(uint32_t);
  if (!within || offset % sizeof(uint32_t) != 0 || (offset >= from && offset < from + length)) {
    throw OutOfRange(env, "lost must be the offset of a u32 of the buffer, outside of the window, is " +
                              std::to_string(offset));
  }
  return reinterpret_cast<std::atomic<uint32_t>*>(begin + offset);
}

}  // namespace

CleanupHook::CleanupHook(napi_env env, void (*function)(void*), void* argument)
    : env_(env), function_(function), argument_(argument) {
  NAPI_THROW_IF_FAILED_VOID(env, napi_add_env_cleanup_hook(env, function, argument));
}

void CleanupHook::Remove() {
  if (env_ != nullptr) napi_remove_env_cleanup_hook(env_, function_, argument_);
  env_ = nullptr;
}

Napi::Function Mapping::Define(Napi::Env env) {
  return DefineClass(env, "Mapping",
                     {
                         InstanceAccessor<&Mapping::Attached>("attached"),
                         InstanceMethod<&Mapping::Whole>("whole"),
                         InstanceMethod<&Mapping::Detach>("detach"),
                         InstanceMethod<&Mapping::Lock>("lock"),
                         InstanceMethod<&Mapping::Unlock>("unlock"),
                         InstanceMethod<&Mapping::Locked>("locked"),
                     });
}

Mapping::Mapping(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<Mapping>(info), hook_(info.Env(), OnCleanup, this) {
  const Napi::Env env = info.Env();
  if (!info[0].IsArrayBuffer()) throw WrongType(env, "buffer must be an ArrayBuffer (not a shared one)");
  const Napi::ArrayBuffer buffer = info[0].As<Napi::ArrayBuffer>();
  const uint64_t window_offset = Integer(info[1], "windowOffset");
  const uint64_t length = Integer(info[2], "length");
  const int fd = Descriptor(info[3], "fd");
  const uint64_t file_offset = Integer(info[4], "fileOffset");
  // This may run a getter, which may do anything to the buffer. So it comes before the buffer is examined.
  const bool read_only = Option(info[5], "readOnly");
  const std::optional<uint64_t> lost = IntegerOption(info[5], "lost");

  if (length == 0) throw OutOfRange(env, "length must not be 0");
  RequirePageMultiple(env, length, "length");
  RequirePageMultiple(env, file_offset, "fileOffset");
  void* const window = WindowOf(env, buffer, window_offset, length);
  if (lost) lost_ = WordOf(env, buffer, *lost, window, length);

  // A duplicate, so that the caller may close its own; close-on-exec, so that no child keeps the device; at least 3, so
  // that it never becomes the standard output of a process that has closed its own.
  fd_.Reset(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  int error = fd_.get() >= 0 ? 0 : errno;
  if (error != 0) throw SystemError(env, error, "fcntl", "duplicating fd " + std::to_string(fd));
  RequireWithinFile(env, fd_.get(), file_offset, length);
  buffer_ = Napi::Persistent(buffer);

  const std::string what =
      Bytes(length) + " at file offset " + std::to_string(file_offset) + (read_only ? ", read-only" : "");
  Pages pages = Pages::OfFile(fd_.get(), static_cast<off_t>(file_offset), length, read_only, &error);
  if (error != 0) throw SystemError(env, error, "mmap", "mmap of " + what);
  if (lost_ != nullptr) {
    lost_->store(0, std::memory_order_relaxed);
    error = guarded_.Guard(window, length, lost_);
    if (error != 0) throw SystemError(env, error, "sigaction", "handling SIGBUS in the window of " + what);
  }
  error = pages.MoveTo(window);
  if (error != 0) throw SystemError(env, error, "mremap", "mremap onto the window of " + what);
  window_ = window;
  length_ = length;
  file_offset_ = file_offset;
}

Mapping::~Mapping() {
  // A failure cannot be reported from here. Then the pages of the file stay in the memory, which leaves no hole, and go
  // with the memory.
  const char* syscall = nullptr;
  Cover(&syscall);
  Release();
}

void Mapping::OnCleanup(void* data) {
  Mapping* const mapping = static_cast<Mapping*>(data);
  const char* syscall = nullptr;
  mapping->hook_.Forget();
  mapping->Cover(&syscall);  // as in the destructor
  mapping->Release();
}

bool Mapping::OwnsWindow() const {
  const Napi::HandleScope scope(Env());
  return !buffer_.Value().IsDetached();
}

int Mapping::Cover(const char** syscall) {
  // A buffer that was transferred or grown has given its pages to another one, of unknown lifetime: the address may be
  // in other use by now. The mapped pages go with that other buffer.
  if (window_ == nullptr || !OwnsWindow()) return 0;
  int error = 0;
  *syscall = "mmap";
  Pages zeros = Pages::Anonymous(length_, &error);
  if (error != 0) return error;
  *syscall = "mremap";
  return zeros.MoveTo(window_);
}

void Mapping::Release() {
  window_ = nullptr;
  // Behind Cover(): until then an access may miss its page.
  guarded_.Release();
  lost_ = nullptr;
  hook_.Remove();
  fd_.Reset();
  buffer_.Reset();
}

Napi::Value Mapping::Attached(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), window_ != nullptr);
}

Napi::Value Mapping::Whole(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (window_ == nullptr || lost_ == nullptr) return Napi::Boolean::New(env, true);
  if (lost_->load(std::memory_order_acquire) != 0) return Napi::Boolean::New(env, false);
  uint64_t size = 0;
  // Where the size cannot be had, the handler finds out.
  if (SizeOfFile(fd_.get(), &size) != 0 || (length_ <= size && file_offset_ <= size - length_)) {
    return Napi::Boolean::New(env, true);
  }
  // As the handler would do it at the next access; if the pages cannot be replaced now, it will.
  const char* syscall = nullptr;
  if (Cover(&syscall) == 0) lost_->store(1, std::memory_order_release);
  return Napi::Boolean::New(env, lost_->load(std::memory_order_relaxed) == 0);
}

void Mapping::Detach(const Napi::CallbackInfo& info) {
  if (window_ == nullptr) return;
  const bool owned = OwnsWindow();
  const char* syscall = nullptr;
  const int error = Cover(&syscall);
  // The mapping stays attached; the caller may try again.
  if (error != 0) {
    throw SystemError(info.Env(), error, syscall, "replacing the window by " + Bytes(length_) + " of zeros");
  }
  Release();
  if (!owned) {
    Napi::Error failure = Napi::Error::New(
        info.Env(), "the buffer was transferred or grown while pages were mapped into it; they stay in its successor");
    failure.Set("code", Napi::String::New(info.Env(), "ERR_INVALID_STATE"));
    throw failure;
  }
}

Napi::Value Mapping::Lock(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), isthmus::Lock(fd_.get(), info[0]));
}

void Mapping::Unlock(const Napi::CallbackInfo& info) { isthmus::Unlock(fd_.get(), info[0]); }

Napi::Value Mapping::Locked(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), isthmus::Locked(fd_.get(), info[0]));
}

}  // namespace isthmus
