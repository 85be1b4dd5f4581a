/* Two processes, a ring of shared memory in each direction, one memcpy in and one out, and nothing else: the limit of this
 * machine for two copies.
 * copies latency|throughput SIZE BATCH SECONDS [CPU CPU]; prints one number per line.
 *
 * A record is a word, its position + 1, and a piece of a message. A message of a ping-pong goes in eighths, of at least
 * 8 KiB, so that the receiver copies one out while the sender copies the next in. A message of a stream goes in records of
 * the maximum length. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RING (1UL << 20)
#define RECORD (RING / 4)
#define PIECE 8192UL
#define SAMPLES 5000

struct ring {
	_Alignas(128) _Atomic uint64_t head;
	/* A record that begins before the end of the ring may extend beyond it. */
	_Alignas(128) char data[RING + RECORD + 64];
};

struct end {
	struct ring *in, *out;
	uint64_t read, written, head;
	char *source, *target;
};

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1e9 + at.tv_nsec;
}

static _Atomic uint64_t *word(struct ring *ring, uint64_t position)
{
	return (_Atomic uint64_t *)(ring->data + position % RING);
}

static uint64_t span(size_t bytes)
{
	return (bytes + sizeof(uint64_t) + 63) & ~63UL;
}

static void give(struct end *end, size_t size, size_t piece)
{
	for (size_t done = 0; done < size; done += piece) {
		size_t here = size - done < piece ? size - done : piece;
		uint64_t next = end->written + span(here);

		while (next - end->head > RING)
			end->head = atomic_load_explicit(&end->out->head, memory_order_acquire);
		memcpy((char *)word(end->out, end->written) + sizeof(uint64_t), end->source + done, here);
		atomic_store_explicit(word(end->out, end->written), end->written + 1, memory_order_release);
		end->written = next;
	}
}

static void take(struct end *end, size_t size, size_t piece)
{
	for (size_t done = 0; done < size; done += piece) {
		size_t here = size - done < piece ? size - done : piece;

		while (atomic_load_explicit(word(end->in, end->read), memory_order_acquire) != end->read + 1)
			;
		memcpy(end->target + done, (char *)word(end->in, end->read) + sizeof(uint64_t), here);
		end->read += span(here);
		atomic_store_explicit(&end->in->head, end->read, memory_order_release);
	}
}

static void pin(const char *cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(atoi(cpu), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

int main(int argc, char **argv)
{
	if (argc != 5 && argc != 7)
		return 2;

	int latency = strcmp(argv[1], "latency") == 0, batch = atoi(argv[3]);
	size_t size = atol(argv[2]), most = RECORD - sizeof(uint64_t), piece = size < most ? size : most;
	double start, seconds = atof(argv[4]);
	struct ring *rings = mmap(NULL, 2 * sizeof(*rings), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct end end = { .in = rings, .out = rings + 1, .source = malloc(size), .target = malloc(size) };
	pid_t child;

	if (rings == MAP_FAILED || !end.source || !end.target)
		return 1;
	memset(end.source, 0x2a, size);
	memset(end.target, 0, size);
	if (latency && size > 2 * PIECE) {
		piece = size / 8 > PIECE ? size / 8 : PIECE;
		piece = piece < most ? piece : most;
	}
	child = fork();
	if (child < 0)
		return 1;
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		end.in = rings + 1;
		end.out = rings;
		if (argc == 7)
			pin(argv[6]);
		for (;;) {
			take(&end, size, piece);
			if (latency)
				give(&end, size, piece);
		}
	}
	if (argc == 7)
		pin(argv[5]);
	start = now();
	for (int count = 0; count < SAMPLES; ) {
		double before = now();

		if (before > start + seconds * 1e9)
			break;
		for (int i = 0; i < batch; i++) {
			give(&end, size, piece);
			if (latency)
				take(&end, size, piece);
		}
		if (before > start + seconds * 1e8 || !latency) {
			printf("%.1f\n", (now() - before) / batch / (latency ? 2 : 1));
			count++;
		}
	}
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return 0;
}
