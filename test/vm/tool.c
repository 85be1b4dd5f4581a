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
