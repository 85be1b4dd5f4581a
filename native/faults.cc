#include "faults.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <new>

namespace isthmus {

namespace {

// ── The table of windows ───────────────────────────────────────────────────────────────────────────────────────────

enum State : uint32_t {
  kFree,
  kActive,
  // Released a moment ago: a thread may have faulted in it before, and enter the handler only now. That access is
  // repeated once, because the window has other pages since.
  kReleased,
};

// Written under the mutex, read by the handler. `version` is odd while the entry is written.
struct Entry {
  std::atomic<uint32_t> version{0};
  std::atomic<uint32_t> state{kFree};
  std::atomic<uintptr_t> begin{0};
  std::atomic<size_t> length{0};
  std::atomic<std::atomic<uint32_t>*> lost{nullptr};
};

constexpr size_t kEntries = 64;

// The table grows by such parts, which are never freed: the handler may read them at any moment.
struct Part {
  Entry entries[kEntries];
  std::atomic<Part*> next{nullptr};
};

static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free,
              "the handler must not take a lock");

Part first_part;

struct Window {
  State state;
  uintptr_t begin;
  size_t length;
  std::atomic<uint32_t>* lost;
};

Window Read(const Entry& entry) {
  for (;;) {
    const uint32_t before = entry.version.load(std::memory_order_acquire);
    // It is being written, perhaps by the very thread that the signal has interrupted: nothing is mapped there yet.
    if (before % 2 != 0) return {kFree, 0, 0, nullptr};
    const Window window = {static_cast<State>(entry.state.load(std::memory_order_relaxed)),
                           entry.begin.load(std::memory_order_relaxed), entry.length.load(std::memory_order_relaxed),
                           entry.lost.load(std::memory_order_relaxed)};
    std::atomic_thread_fence(std::memory_order_acquire);
    if (entry.version.load(std::memory_order_relaxed) == before) return window;
  }
}

void Write(Entry* entry, const Window& window) {
  const uint32_t version = entry->version.load(std::memory_order_relaxed);
  entry->version.store(version + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  entry->state.store(window.state, std::memory_order_relaxed);
  entry->begin.store(window.begin, std::memory_order_relaxed);
  entry->length.store(window.length, std::memory_order_relaxed);
  entry->lost.store(window.lost, std::memory_order_relaxed);
  entry->version.store(version + 2, std::memory_order_release);
}

Entry* FreeEntry() {
  Part* part = &first_part;
  for (;;) {
    for (Entry& entry : part->entries) {
      if (entry.state.load(std::memory_order_relaxed) != kActive) return &entry;
    }
    Part* next = part->next.load(std::memory_order_relaxed);
    if (next == nullptr) {
      next = new (std::nothrow) Part;
      if (next == nullptr) return nullptr;
      part->next.store(next, std::memory_order_release);
    }
    part = next;
  }
}

// ── The handler ────────────────────────────────────────────────────────────────────────────────────────────────────

// The action before ours. Replaced, never changed: the handler may be reading it.
std::atomic<const struct sigaction*> previous{nullptr};

// Whether the kernel sent the signal because of an access of this thread. Only then is there an address, and only then
// does the access come again when the handler returns.
bool IsAccess(const siginfo_t& info) {
  return info.si_code == BUS_ADRALN || info.si_code == BUS_ADRERR || info.si_code == BUS_OBJERR ||
         info.si_code == BUS_MCEERR_AR;
}

bool MissesPage(const siginfo_t& info) { return IsAccess(info) && info.si_code != BUS_ADRALN; }

// Number of threads that are in Cover(): a window may not get another use meanwhile.
std::atomic<uint32_t> covering{0};

// Lays zeros over the window that the address lies in. Returns whether the access may be repeated.
bool Cover(uintptr_t address) {
  for (Part* part = &first_part; part != nullptr; part = part->next.load(std::memory_order_acquire)) {
    for (Entry& entry : part->entries) {
      const Window window = Read(entry);
      if (window.state == kFree || address - window.begin >= window.length) continue;
      if (window.state == kReleased) {
        uint32_t state = kReleased;
        // Once: whatever lies at this address now may be foreign.
        if (entry.state.compare_exchange_strong(state, kFree, std::memory_order_relaxed)) return true;
        continue;
      }
      window.lost->store(1, std::memory_order_release);
      // The whole window: a region of which a part is missing must not be written to as if it were whole. The pages
      // are like those that V8 had mapped there (pages.cc).
      return mmap(reinterpret_cast<void*>(window.begin), window.length, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
    }
  }
  return false;
}

// Ends the process as the kernel would have: with a core dump that shows the access.
void TakeDefaultAction(int signal, siginfo_t* info) {
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  // The signal is blocked until the handler returns; then it is delivered, with the same information and at the same
  // instruction. Where this call is forbidden, an access faults again, and a sent signal is sent anew.
  const auto pid = syscall(SYS_getpid);
  const auto tid = syscall(SYS_gettid);
  if (syscall(SYS_rt_tgsigqueueinfo, pid, tid, signal, info) != 0 && !IsAccess(*info)) {
    syscall(SYS_tgkill, pid, tid, signal);
  }
}

void OnBusError(int signal, siginfo_t* info, void* context);

void CallPrevious(int signal, siginfo_t* info, void* context) {
  const struct sigaction* action = previous.load(std::memory_order_acquire);
  const bool informed = (action->sa_flags & SA_SIGINFO) != 0;
  if (!informed && action->sa_handler == SIG_DFL) return TakeDefaultAction(signal, info);
  if (!informed && action->sa_handler == SIG_IGN) {
    // The kernel ignores what was sent; an access cannot be ignored.
    return IsAccess(*info) ? TakeDefaultAction(signal, info) : void();
  }
  // As the kernel calls a handler. It restores the mask when ours returns.
  pthread_sigmask(SIG_BLOCK, &action->sa_mask, nullptr);
  if ((action->sa_flags & SA_NODEFER) != 0) {
    sigset_t own;
    sigemptyset(&own);
    sigaddset(&own, signal);
    pthread_sigmask(SIG_UNBLOCK, &own, nullptr);
  }
  if ((action->sa_flags & static_cast<int>(SA_RESETHAND)) != 0) {
    static const struct sigaction by_default = {};  // SIG_DFL is 0
    previous.store(&by_default, std::memory_order_release);
  }
  if (informed) {
    action->sa_sigaction(signal, info, context);
  } else {
    action->sa_handler(signal);
  }
}

void OnBusError(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  bool covered = false;
  if (MissesPage(*info)) {
    covering.fetch_add(1);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    covered = Cover(reinterpret_cast<uintptr_t>(info->si_addr));
    covering.fetch_sub(1);
  }
  errno = error;
  if (!covered) CallPrevious(signal, info, context);
}

// ── Installing it ──────────────────────────────────────────────────────────────────────────────────────────────────

std::mutex mutex;
size_t windows = 0;
// Whether a call of another handler may lead to ours.
bool installed = false;

bool IsOurs(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == OnBusError;
}

bool IsHandler(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 || (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
}

bool SameAction(const struct sigaction& a, const struct sigaction& b) {
  constexpr int kFlags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK | SA_RESTART | static_cast<int>(SA_RESETHAND);
  if ((a.sa_flags & kFlags) != (b.sa_flags & kFlags) || a.sa_handler != b.sa_handler) return false;
  for (int signal = 1; signal < NSIG; signal++) {
    if (sigismember(&a.sa_mask, signal) != sigismember(&b.sa_mask, signal)) return false;
  }
  return true;
}

// Returns 0 or an errno.
int Remember(const struct sigaction& action) {
  const struct sigaction* known = previous.load(std::memory_order_relaxed);
  if (known != nullptr && SameAction(*known, action)) return 0;
  // Never freed: the handler may be using the one before. It is another one as often as the application changes its
  // handler, and no more often.
  const auto* copy = new (std::nothrow) struct sigaction(action);
  if (copy == nullptr) return ENOMEM;
  previous.store(copy, std::memory_order_release);
  return 0;
}

int Install() {
  struct sigaction now = {};
  if (sigaction(SIGBUS, nullptr, &now) != 0) return errno;
  if (IsOurs(now)) return 0;
  // A handler that was installed after ours comes first, and is expected to call ours. To go before it would lead
  // either of them to the other for ever.
  if (installed && IsHandler(now)) return 0;
  int error = Remember(now);
  if (error != 0) return error;
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  // An alternative stack where the thread has one: the fault may be one of a thread whose stack is almost full.
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGBUS, &action, nullptr) != 0) return errno;
  installed = true;
  return 0;
}

void Uninstall() {
  struct sigaction now = {};
  // Under a later handler ours stays: that one may call it.
  if (sigaction(SIGBUS, nullptr, &now) != 0 || !IsOurs(now)) return;
  if (sigaction(SIGBUS, previous.load(std::memory_order_relaxed), nullptr) == 0) installed = false;
}

}  // namespace

int GuardedWindow::Guard(void* window, size_t length, std::atomic<uint32_t>* lost) {
  const std::lock_guard<std::mutex> lock(mutex);
  Entry* const entry = FreeEntry();
  if (entry == nullptr) return ENOMEM;
  const int error = Install();
  if (error != 0) return error;
  Write(entry, {kActive, reinterpret_cast<uintptr_t>(window), length, lost});
  entry_ = entry;
  ++windows;
  return 0;
}

void GuardedWindow::Release() {
  if (entry_ == nullptr) return;
  const std::lock_guard<std::mutex> lock(mutex);
  Entry* const entry = static_cast<Entry*>(entry_);
  entry_ = nullptr;
  Window window = Read(*entry);
  window.state = kReleased;
  window.lost = nullptr;
  Write(entry, window);
  // A thread that has seen the window before may be about to lay zeros over it. It waits for nothing.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  while (covering.load() != 0) sched_yield();
  if (--windows == 0) Uninstall();
}

}  // namespace isthmus
