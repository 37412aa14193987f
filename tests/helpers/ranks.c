/* ranks [fail RANK | meet RANK | abort RANK | stop]   every verb of the communicator, a JSON line for each rank
 *
 * fail: rank RANK and all above fail and agree; meet: the same where ranks meet, with the last one asked to stop;
 * abort: RANK fails without the others' knowing; stop: waits for a signal.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/comm.h"
#include "cluster/share.h"
#include "cluster/shared_memory.h"
#include "cluster/signals.h"
#include "helper.h"

enum { SLOTS = 7, BYTES = 5000 };

static struct error shared_text(struct comm *comm, char text[64], bool *fill)
{
    void *memory;
    TRY(shared_memory_new(comm, BYTES, &memory, fill));
    if (*fill)
        snprintf(memory, BYTES, "written by %d", comm_rank(comm));
    TRY(comm_agree(comm, ok()));
    snprintf(text, 64, "%s", (const char *)memory);
    shared_memory_free(memory, BYTES);
    return ok();
}

static struct error verbs(struct comm *comm)
{
    int rank = comm_rank(comm), size = comm_size(comm);
    struct share share = share_of(SLOTS, rank, size);
    double slots[SLOTS] = {0};
    for (int64_t i = share.first; i < share.first + share.count; i++)
        slots[i] = 1.0 / (double)(i + 3);
    TRY(comm_sum(comm, slots, SLOTS));
    int word = rank == size - 1 ? 42 : 0;
    TRY(comm_broadcast(comm, &word, sizeof word, size - 1));
    bool fill;
    char text[64];
    TRY(shared_text(comm, text, &fill));
    TRY(comm_barrier(comm));
    printf("{\"rank\": %d, \"size\": %d, \"rank_here\": %d, \"ranks_here\": %d, \"first\": %lld, \"count\": %lld, "
           "\"word\": %d, \"fill\": %s, \"text\": \"%s\", \"slots\": [",
           rank, size, comm_local_rank(comm), comm_local_size(comm), (long long)share.first, (long long)share.count,
           word, fill ? "true" : "false", text);
    for (int i = 0; i < SLOTS; i++)
        printf("%s%.17g", i ? ", " : "", slots[i]);
    printf("]}\n");
    fflush(stdout);
    return ok();
}

static struct error fail_from(struct comm *comm, int first, bool meet)
{
    int rank = comm_rank(comm);
    bool stop = meet && rank == comm_size(comm) - 1;
    struct error mine = rank >= first ? error_input("rank %d cannot go on", rank) : ok();
    struct error e = meet ? comm_meet(comm, mine, &stop) : comm_agree(comm, mine);
    printf("{\"rank\": %d, \"code\": %d, \"text\": \"%s\", \"stop\": %d}\n", rank, e.code, e.text, stop);
    return e;
}

static struct error stop(struct comm *comm)
{
    signals_watch();
    printf("ready\n");
    fflush(stdout);
    double asked = 0;
    for (int64_t tries = 0; tries < 3000 && asked == 0; tries++) {
        usleep(10000);
        asked = signals_stop_requested();
        TRY(comm_sum(comm, &asked, 1));
    }
    printf("rank %d: %g asked to stop\n", comm_rank(comm), asked);
    fflush(stdout);
    return comm_barrier(comm);
}

static struct error work(int argc, char **argv, struct comm *comm)
{
    if (argc == 3 && (strcmp(argv[1], "fail") == 0 || strcmp(argv[1], "meet") == 0))
        return fail_from(comm, atoi(argv[2]), strcmp(argv[1], "meet") == 0);
    if (argc == 2 && strcmp(argv[1], "stop") == 0)
        return stop(comm);
    if (argc == 3 && strcmp(argv[1], "abort") == 0)
        TRY(comm_abort(comm, comm_rank(comm) == atoi(argv[2]) ? error_failed("this rank is lost") : ok()));
    return verbs(comm);
}

int main(int argc, char **argv)
{
    return helper_on_ranks("ranks", argc, argv, work);
}
