/*
 * Operations on a device file in a guest that a shell cannot do. Linked statically, so that it needs no files there.
 *
 *   tool map   PATH OFFSET LENGTH [ro] [private]   maps, accesses the first and the last word, and prints `mapped`
 *   tool write PATH OFFSET LENGTH AT WORD          stores a word
 *   tool read  PATH OFFSET LENGTH AT               loads and prints it
 *   tool move  PATH OFFSET LENGTH                  maps, and moves the mapping over another one, as the runtime does
 *   tool part  PATH OFFSET LENGTH                  maps, unmaps all but the last page, and forks; both sides read it
 *   tool hold  PATH OFFSET LENGTH                  maps all of it, prints the address, and writes and reads until
 *                                                  SIGBUS; then prints what still works with the file descriptor.
 *                                                  With `ro` it only reads
 *   tool many  PATH OFFSET LENGTH                  maps at a multiple of 2 MiB, writes to each page, prints how many KiB
 *                                                  of page tables that took; cuts, protects, forks and moves the mapping
 *   tool peek  /proc/PID/mem ADDRESS 8             prints the word there, read as a debugger does
 *   tool poke  /proc/PID/mem ADDRESS 8 WORD        changes it
 * A failed call prints `CALL: NAME OF THE ERROR` and ends the program with 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf bus;

static void on_bus(int number)
{
	(void)number;
	siglongjmp(bus, 1);
}

static void fail(const char *call)
{
	printf("%s: %s\n", call, strerrorname_np(errno));
	exit(1);
}

static uint64_t number(const char *text)
{
	return strtoull(text, NULL, 0);
}

static int has(char **arguments, const char *word)
{
	for (; *arguments; arguments++)
		if (!strcmp(*arguments, word))
			return 1;
	return 0;
}

/* KiB of page tables of this process. */
static long tables(void)
{
	char line[256];
	long kib = -1;
	FILE *status = fopen("/proc/self/status", "r");
	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "VmPTE: %ld", &kib) == 1)
			break;
	if (status)
		fclose(status);
	return kib;
}

/* One word in each page. */
static void fill(volatile uint64_t *words, size_t from, size_t to, uint64_t seed)
{
	for (size_t at = from / 8; at < to / 8; at += 512)
		words[at] = seed ^ at;
}

static int filled(volatile uint64_t *words, size_t from, size_t to, uint64_t seed)
{
	for (size_t at = from / 8; at < to / 8; at += 512)
		if (words[at] != (seed ^ at))
			return 0;
	return 1;
}

static int many(int file, off_t offset, size_t length)
{
	const size_t huge = 2 << 20;
	/* Twice: the second place is where the mapping moves to. */
	const size_t room = 2 * (length + huge);
	char *place = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (place == MAP_FAILED)
		fail("mmap of room");
	place = (char *)(((uintptr_t)place + huge - 1) & ~(huge - 1));
	const long before = tables();
	volatile uint64_t *words = mmap(place, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, offset);
	if (words == MAP_FAILED)
		fail("mmap");
	fill(words, 0, length, 1);
	printf("tables %ld\n", tables() - before);
	if (mprotect((char *)words, length, PROT_READ) || mprotect((char *)words, length, PROT_READ | PROT_WRITE))
		fail("mprotect");
	if (!filled(words, 0, length, 1))
		return puts("lost after mprotect"), 1;
	fill(words, 0, length, 2);
	const pid_t child = fork();
	if (child == 0) {
		if (!filled(words, 0, length, 2))
			_exit(1);
		fill(words, 0, length, 3);
		_exit(0);
	}
	int status = -1;
	waitpid(child, &status, 0);
	if (status || !filled(words, 0, length, 3))
		return puts("lost after fork"), 1;
	char *there = place + length + huge;
	if (mremap((char *)words, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, there) != there)
		fail("mremap");
	words = (volatile uint64_t *)there;
	if (!filled(words, 0, length, 3))
		return puts("lost after mremap"), 1;
	/* To a place that is no multiple of 2 MiB. */
	if (mremap((char *)words, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, place + 4096) != place + 4096)
		fail("mremap");
	words = (volatile uint64_t *)(place + 4096);
	if (!filled(words, 0, length, 3))
		return puts("lost after a crooked mremap"), 1;
	/* And back. From here on the mapping is cut, in the middle of what one huge entry may map. */
	if (mremap((char *)words, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, there) != there)
		fail("mremap");
	words = (volatile uint64_t *)there;
	fill(words, 0, length, 4);
	const size_t cut = huge + huge / 2;
	if (mprotect((char *)words + cut, 4096, PROT_READ) || mprotect((char *)words + cut, 4096, PROT_READ | PROT_WRITE))
		fail("mprotect");
	fill(words, 0, length, 3);
	if (!filled(words, 0, length, 3))
		return puts("lost after mprotect of a part"), 1;
	if (munmap((char *)words + cut, 8192))
		fail("munmap");
	if (!filled(words, 0, cut, 3) || !filled(words, cut + 8192, length, 3))
		return puts("lost after munmap"), 1;
	/* Direct I/O and futexes look for pages of such memory, and have to find none. */
	int pipes[2];
	if (pipe(pipes))
		fail("pipe");
	struct iovec vector = { .iov_base = (void *)words, .iov_len = 4096 };
	const ssize_t spliced = vmsplice(pipes[1], &vector, 1, 0);
	printf("vmsplice: %s\n", spliced < 0 ? strerrorname_np(errno) : "pages");
	puts("whole");
	return 0;
}

int main(int count, char **arguments)
{
	if (count < 5)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	const char *what = arguments[1];
	const off_t offset = (off_t)number(arguments[3]);
	const size_t length = number(arguments[4]);
	/* Static: it is read again after a siglongjmp(). */
	static int readonly;
	readonly = has(arguments + 5, "ro");
	const int private = has(arguments + 5, "private");

	const int file = open(arguments[2], (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (file < 0)
		fail("open");
	if (!strcmp(what, "peek") || !strcmp(what, "poke")) {
		uint64_t word = count > 5 ? number(arguments[5]) : 0;
		const int poke = !strcmp(what, "poke");
		const ssize_t done = poke ? pwrite(file, &word, 8, offset) : pread(file, &word, 8, offset);
		if (done != 8)
			fail(poke ? "pwrite" : "pread");
		printf("0x%llx\n", (unsigned long long)word);
		return 0;
	}
	if (!strcmp(what, "many"))
		return many(file, offset, length);
	const int protection = readonly ? PROT_READ : PROT_READ | PROT_WRITE;
	const int flags = private ? MAP_PRIVATE : MAP_SHARED;
	volatile uint64_t *words = mmap(NULL, length, protection, flags, file, offset);
	if (words == MAP_FAILED)
		fail("mmap");
	const size_t last = length / 8 - 1;

	if (!strcmp(what, "map")) {
		const uint64_t sum = words[0] ^ words[last];
		if (!readonly) {
			words[0] = words[0];
			words[last] = words[last];
		}
		(void)sum;
		puts("mapped");
		return 0;
	}
	if (!strcmp(what, "write") && count == 7) {
		words[number(arguments[5]) / 8] = number(arguments[6]);
		return 0;
	}
	if (!strcmp(what, "read") && count == 6) {
		printf("0x%llx\n", (unsigned long long)words[number(arguments[5]) / 8]);
		return 0;
	}
	if (!strcmp(what, "move")) {
		volatile uint64_t *window = mmap(NULL, length, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (window == MAP_FAILED)
			fail("mmap of the window");
		words[last] = 0x6d6f766564;
		if (mremap((void *)words, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, window) != window)
			fail("mremap");
		printf(window[last] == 0x6d6f766564 ? "moved\n" : "lost\n");
		window[0] = window[last];
		return 0;
	}
	if (!strcmp(what, "part")) {
		const long page = sysconf(_SC_PAGESIZE);
		words[last] = 0x70617274;
		if (munmap((void *)words, length - page))
			fail("munmap");
		const pid_t child = fork();
		if (child == 0)
			_exit(words[last] == 0x70617274 ? 0 : 1);
		int status = -1;
		waitpid(child, &status, 0);
		printf(status == 0 && words[last] == 0x70617274 ? "shared\n" : "lost\n");
		return 0;
	}
	if (!strcmp(what, "hold")) {
		volatile uint64_t rounds = 0;
		signal(SIGBUS, on_bus);
		for (size_t i = 0; i <= last && !readonly; i += 512)
			words[i] = i;
		printf("holding %p\n", (void *)words);
		if (sigsetjmp(bus, 1) == 0) {
			for (;; rounds++) {
				const size_t at = (size_t)(rounds * 512) % (last + 1);
				if (readonly) {
					(void)words[at];
					continue;
				}
				words[at] = rounds;
				if (words[at] != rounds) {
					puts("garbage");
					return 1;
				}
			}
		}
		puts("SIGBUS");
		char byte[4];
		if (read(file, byte, sizeof(byte)) < 0)
			printf("read: %s\n", strerrorname_np(errno));
		if (mmap(NULL, length, protection, flags, file, offset) == MAP_FAILED)
			printf("mmap: %s\n", strerrorname_np(errno));
		puts(close(file) ? "close failed" : "closed");
		/* Once more: the mapping has outlived the descriptor. */
		if (sigsetjmp(bus, 1) == 0) {
			(void)words[last];
			puts("garbage");
			return 1;
		}
		puts("SIGBUS");
		return munmap((void *)words, length) ? 1 : 0;
	}
	return 2;
}
