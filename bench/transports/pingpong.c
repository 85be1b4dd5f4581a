/* Ping-pong and one-way traffic with MPI, in batches, as the other transports are measured.
 * mpiexec -n 2 pingpong latency|throughput SIZE BATCH SECONDS; prints one number per line. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW 64
#define SAMPLES 5000
enum { DATA = 1, LAST = 2 };

static void pingpong(int rank, char *buffer, int size, int batch, double seconds)
{
	double start = MPI_Wtime(), warm = start + seconds / 10, end = start + seconds;
	int count = 0;

	if (rank == 1) {
		/* The tag of the first message of a batch says whether it is the last batch. */
		for (MPI_Status status = {0}; status.MPI_TAG != LAST;) {
			MPI_Recv(buffer, size, MPI_BYTE, 0, MPI_ANY_TAG, MPI_COMM_WORLD, &status);
			MPI_Send(buffer, size, MPI_BYTE, 0, DATA, MPI_COMM_WORLD);
			for (int i = 1; i < batch; i++) {
				MPI_Recv(buffer, size, MPI_BYTE, 0, DATA, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
				MPI_Send(buffer, size, MPI_BYTE, 0, DATA, MPI_COMM_WORLD);
			}
		}
		return;
	}
	for (double before = start; before < end; ) {
		int last;

		before = MPI_Wtime();
		last = before >= end || count == SAMPLES;
		for (int i = 0; i < batch; i++) {
			MPI_Send(buffer, size, MPI_BYTE, 1, i == 0 && last ? LAST : DATA, MPI_COMM_WORLD);
			MPI_Recv(buffer, size, MPI_BYTE, 1, DATA, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		}
		double after = MPI_Wtime();
		if (before >= warm || last) {
			printf("%.1f\n", (after - before) / batch / 2 * 1e9);
			count++;
		}
		if (last)
			break;
	}
}

/* Windows of sends, each acknowledged; two windows are in flight. */
static void stream(int rank, char *buffer, int size, double seconds)
{
	MPI_Request requests[2][WINDOW];
	double start = MPI_Wtime(), before = start;

	for (int i = 0; i < 2 * WINDOW; i++)
		requests[i / WINDOW][i % WINDOW] = MPI_REQUEST_NULL;
	for (int go = 1, turn = 0, count = 0;; turn = !turn) {
		for (int i = 0; i < WINDOW; i++) {
			if (rank == 0)
				MPI_Isend(buffer, size, MPI_BYTE, 1, DATA, MPI_COMM_WORLD, &requests[turn][i]);
			else
				MPI_Irecv(buffer, size, MPI_BYTE, 0, DATA, MPI_COMM_WORLD, &requests[turn][i]);
		}
		MPI_Waitall(WINDOW, requests[!turn], MPI_STATUSES_IGNORE);
		if (rank == 0) {
			double after = MPI_Wtime();

			printf("%.1f\n", (after - before) / WINDOW * 1e9);
			before = after;
			go = after < start + seconds && ++count < SAMPLES;
			MPI_Send(&go, 1, MPI_INT, 1, LAST, MPI_COMM_WORLD);
		} else {
			MPI_Recv(&go, 1, MPI_INT, 0, LAST, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		}
		if (!go) {
			MPI_Waitall(WINDOW, requests[turn], MPI_STATUSES_IGNORE);
			break;
		}
	}
	MPI_Barrier(MPI_COMM_WORLD);
}

int main(int argc, char **argv)
{
	int rank;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	if (argc == 5) {
		int size = atoi(argv[2]);
		char *buffer = malloc(size + 1);

		memset(buffer, 0x2a, size);
		if (strcmp(argv[1], "latency") == 0)
			pingpong(rank, buffer, size, atoi(argv[3]), atof(argv[4]));
		else
			stream(rank, buffer, size, atof(argv[4]));
		free(buffer);
	}
	MPI_Finalize();
	return argc == 5 ? 0 : 2;
}
