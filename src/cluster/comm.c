#include "cluster/comm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"
#include "cluster/internal.h"

/* ---------------------------------------------------------------------------------------------------- alone */

static void close_alone(struct comm *c)
{
    (void)c;
}

static struct error sum_alone(struct comm *c, double *values, int64_t count)
{
    (void)c;
    (void)values;
    (void)count;
    return ok();
}

static struct error broadcast_alone(struct comm *c, void *data, int64_t bytes, int root)
{
    (void)c;
    (void)data;
    (void)bytes;
    (void)root;
    return ok();
}

static struct error barrier_alone(struct comm *c)
{
    (void)c;
    return ok();
}

static struct error lowest_alone(struct comm *c, int *rank)
{
    (void)c;
    (void)rank;
    return ok();
}

static struct error node_broadcast_alone(struct comm *c, void *data, int64_t bytes)
{
    return broadcast_alone(c, data, bytes, 0);
}

static const struct comm_ops alone = {
    close_alone, sum_alone, broadcast_alone, barrier_alone, lowest_alone, barrier_alone, node_broadcast_alone,
};

/* ---------------------------------------------------------------------------------------------------- opening */

struct error comm_open(struct comm **comm, int *argc, char ***argv)
{
    struct comm *c = memory_take(1, sizeof *c);
    if (!c)
        return error_memory("the communicator");
    *c = (struct comm){.ops = &alone, .size = 1, .ranks_here = 1};
    struct error e = ok();
#ifdef ZOODIP_MPI
    if (comm_mpi_launched())
        e = comm_mpi_open(c, argc, argv);
#else
    (void)argc;
    (void)argv;
#endif
    if (e.code != ERROR_NONE)
        memory_free(c);
    else
        *comm = c;
    return e;
}

void comm_close(struct comm *c)
{
    c->ops->close(c);
    memory_free(c);
}

int comm_rank(const struct comm *c)
{
    return c->rank;
}

int comm_size(const struct comm *c)
{
    return c->size;
}

int comm_local_rank(const struct comm *c)
{
    return c->local_rank;
}

int comm_ranks_here(const struct comm *c)
{
    return c->ranks_here;
}

const char *comm_library(void)
{
#ifdef ZOODIP_MPI
    return comm_mpi_library();
#else
    return "not built in";
#endif
}

/* ---------------------------------------------------------------------------------------------------- collectives */

struct error comm_sum(struct comm *c, double *values, int64_t count)
{
    return c->ops->sum(c, values, count);
}

struct error comm_broadcast(struct comm *c, void *data, int64_t bytes, int root)
{
    return c->ops->broadcast(c, data, bytes, root);
}

struct error comm_barrier(struct comm *c)
{
    return c->ops->barrier(c);
}

struct error comm_agree(struct comm *c, struct error mine)
{
    if (c->size == 1)
        return mine;
    int rank = mine.code != ERROR_NONE ? c->rank : c->size;
    TRY(c->ops->lowest(c, &rank));
    if (rank == c->size)
        return ok();
    struct error first = mine;
    TRY(c->ops->broadcast(c, &first, sizeof first, rank));
    return first;
}

/* ---------------------------------------------------------------------------------------------------- shared memory */

/* A file in the node's shared memory that has lost its name before anyone uses it, so that nothing is left behind however
 * a rank ends. Opens (leader: makes) it and maps it. */
static struct error map_file(const char *name, int64_t bytes, bool make, void **memory)
{
    int file = shm_open(name, make ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, 0600);
    if (file < 0)
        return error_errno("open shared memory", name);
    struct error e = ok();
    if (make && (errno = posix_fallocate(file, 0, bytes)) != 0)
        e = error_in(error_errno("reserve shared memory", name), "%lld MB of weights", (long long)(bytes >> 20));
    if (e.code == ERROR_NONE) {
        *memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (*memory == MAP_FAILED)
            e = error_errno("map shared memory", name);
    }
    close(file);
    if (e.code != ERROR_NONE && make)
        shm_unlink(name);
    return e;
}

/* The leader makes the file and tells its name; an empty name says that it could not. */
static struct error share_file(struct comm *c, int64_t bytes, void **memory)
{
    char name[64] = "";
    struct error e = ok();
    if (c->local_rank == 0) {
        snprintf(name, sizeof name, "/zoodip-%d-%d", (int)getpid(), c->shared_count++);
        e = map_file(name, bytes, true, memory);
        if (e.code != ERROR_NONE)
            memset(name, 0, sizeof name);
    }
    TRY(c->ops->node_broadcast(c, name, sizeof name));
    if (c->local_rank != 0 && name[0])
        e = map_file(name, bytes, false, memory);
    TRY(c->ops->node_barrier(c));
    if (c->local_rank == 0 && name[0])
        shm_unlink(name);
    return e;
}

struct error comm_shared(struct comm *c, int64_t bytes, void **memory, bool *leader)
{
    *memory = NULL;
    *leader = c->local_rank == 0;
    bytes = bytes > 0 ? bytes : 64;
    struct error e = ok();
    if (c->ranks_here > 1) {
        e = share_file(c, bytes, memory);
    } else {
        *memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (*memory == MAP_FAILED)
            e = error_memory("the weights");
    }
    if (e.code != ERROR_NONE)
        *memory = NULL;
    return comm_agree(c, e);
}

void comm_shared_free(struct comm *c, void *memory, int64_t bytes)
{
    (void)c;
    munmap(memory, (size_t)(bytes > 0 ? bytes : 64));
}
