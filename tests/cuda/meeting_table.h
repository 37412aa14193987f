/* tests/cuda/meeting_table.h
 *
 * The shared memory of one communicator's processes: a file named by the communicator's unique id, with a seat for each
 * rank and a tray for each rank's part of a collective.
 *
 * Invariant: a rank fills its tray for part n after all have emptied part n - 1 (`taken`), and reads the others' after
 * all have filled part n (`given`). So no tray changes while someone reads it, and no lock is needed.
 */
#ifndef ZOODIP_TESTS_CUDA_MEETING_TABLE_H
#define ZOODIP_TESTS_CUDA_MEETING_TABLE_H

#include <stddef.h>
#include <stdint.h>
#include <atomic>

enum { MOST_RANKS = 64, TRAY = 256 << 10 };

/* What a rank thinks it is doing; all must agree. */
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

/* Maps the table of this id (created by the first to arrive) and takes a seat; NULL: the system refused. */
struct table *table_join(const char *id, int rank, int ranks, int device);
void table_leave(struct table *t, int ranks);
void table_unlink(const char *id); /* once all have arrived */

bool table_is_full(const struct table *t, int ranks);
bool table_all_given(const struct table *t, int ranks, uint64_t part);
bool table_all_taken(const struct table *t, int ranks, uint64_t part);

/* The first rank that aborted or whose process is gone, and that has not given this part (or, with `taken`, not taken
 * it); -1: none. */
int table_missing(const struct table *t, int ranks, uint64_t part, bool taken);

#endif
