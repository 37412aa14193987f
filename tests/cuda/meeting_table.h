/* tests/cuda/meeting_table.h
 *
 * Where the processes of one communicator meet: a file of shared memory, named by the communicator's unique id, with a
 * seat for each rank and a tray for each rank's part of a collective.
 *
 * Invariant: a rank fills its tray for part n when all have emptied part n - 1 (`taken`), and reads the others' when
 * all have filled part n (`given`). So no tray changes while someone reads it, and nobody needs a lock.
 */
#ifndef ZOODIP_TESTS_CUDA_MEETING_TABLE_H
#define ZOODIP_TESTS_CUDA_MEETING_TABLE_H

#include <stddef.h>
#include <stdint.h>
#include <atomic>

enum { MOST_RANKS = 64, TRAY = 256 << 10 };

/* What a rank believes to be doing; all must agree. */
struct collective {
    int32_t kind, type, op, root;
    int64_t count;
};

struct seat {
    std::atomic<int32_t> pid;  /* 0: empty */
    std::atomic<int32_t> gone; /* it aborted */
    int32_t device;
    std::atomic<uint64_t> given, taken;
    struct collective collective;
};

struct table {
    struct seat seats[MOST_RANKS];
    char trays[][TRAY];
};

/* Maps the table of this id (made by whoever comes first) and takes a seat; NULL: the system refused. */
struct table *table_join(const char *id, int rank, int ranks, int device);
void table_leave(struct table *t, int ranks);
void table_unlink(const char *id); /* once all are there */

bool table_is_full(const struct table *t, int ranks);
bool table_all_given(const struct table *t, int ranks, uint64_t part);
bool table_all_taken(const struct table *t, int ranks, uint64_t part);

/* The first rank that aborted or whose process is no more, and that has not given this part (or, with `taken`, not
 * taken it); -1: none. */
int table_missing(const struct table *t, int ranks, uint64_t part, bool taken);

#endif
