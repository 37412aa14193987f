#include "cluster/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "cluster/transport.h"

enum { BYTES_AT_ONCE = 1 << 30, NUMBERS_AT_ONCE = 1 << 26 };

struct comm {
    const struct transport *transport; /* NULL: alone */
    void *state;
    struct place place;
    struct patience patience;
    double *failures; /* [size], for comm_agree, which must not run out of memory */
};

/* -------------------------------------------------------------------------------- open, close */

static int64_t number_from_environment(const char *name)
{
    const char *text = getenv(name);
    return text && *text ? strtoll(text, NULL, 10) : 0;
}

/* The variable by which a process manager told this process its rank: Open MPI's, PMIx's, or PMI's (MPICH, Intel MPI,
 * srun --mpi=pmi2); NULL if none did. */
static const char *rank_variable(void)
{
    static const char *const ranks[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"};
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++)
        if (getenv(ranks[i]))
            return ranks[i];
    return NULL;
}

int comm_rank_launched(void)
{
    const char *variable = rank_variable();
    return (int)number_from_environment(variable ? variable : "SLURM_PROCID");
}

/* Processes that run side by side without knowing it would all write the same files. */
static struct error check_launcher(void)
{
#ifdef ZOODIP_MPI
    if (!rank_variable() && number_from_environment("SLURM_STEP_NUM_TASKS") > 1)
        return error_input("srun started %lld tasks that do not see one another; expected srun --mpi=pmix (or pmi2)",
                           (long long)number_from_environment("SLURM_STEP_NUM_TASKS"));
#else
    const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (number_from_environment(sizes[i]) > 1)
            return error_input("started as %lld ranks, but this zoodip was built without MPI",
                               (long long)number_from_environment(sizes[i]));
#endif
    return ok();
}

static struct error take_failures(struct comm *c)
{
    c->failures = memory_alloc(c->place.size, sizeof *c->failures);
    return c->failures ? ok() : error_memory("the communicator");
}

static struct error join(struct comm *c, int *argc, char ***argv)
{
    c->place = (struct place){0, 1, 0, 1};
    c->patience.seconds = 600;
#ifdef ZOODIP_MPI
    if (rank_variable())
        TRY(mpi_open(&c->transport, &c->state, &c->place, &c->patience, argc, argv));
#else
    (void)argc;
    (void)argv;
#endif
    return take_failures(c);
}

struct error comm_open(struct comm **comm, int *argc, char ***argv)
{
    *comm = NULL;
    TRY(check_launcher());
    struct comm *c = memory_alloc(1, sizeof *c);
    if (!c)
        return error_memory("the communicator");
    struct error e = join(c, argc, argv);
    if (e.code != ERROR_NONE) {
        comm_close(c);
        return e;
    }
    *comm = c;
    return ok();
}

void comm_close(struct comm *comm)
{
    if (!comm)
        return;
    if (comm->transport)
        comm->transport->close(comm->state);
    memory_free(comm->failures);
    memory_free(comm);
}

const char *comm_library(void)
{
#ifdef ZOODIP_MPI
    return mpi_library();
#else
    return "not built in";
#endif
}

/* -------------------------------------------------------------------------------- who and where */

int comm_rank(const struct comm *comm)
{
    return comm->place.rank;
}

int comm_size(const struct comm *comm)
{
    return comm->place.size;
}

int comm_local_rank(const struct comm *comm)
{
    return comm->place.rank_here;
}

int comm_local_size(const struct comm *comm)
{
    return comm->place.ranks_here;
}

void comm_set_timeout(struct comm *comm, double seconds)
{
    comm->patience.seconds = seconds;
}

void comm_set_step(struct comm *comm, int64_t step)
{
    comm->patience.step = step;
}

void comm_listen(struct comm *comm, struct listener listener)
{
    comm->patience.listener = listener;
}

void comm_tick(const struct comm *comm)
{
    const struct listener *l = &comm->patience.listener;
    if (l->meanwhile)
        l->meanwhile(l->arg);
}

/* -------------------------------------------------------------------------------- verbs */

struct error comm_sum(struct comm *comm, double *values, int64_t count)
{
    if (!comm->transport)
        return ok();
    for (int64_t i = 0; i < count; i += NUMBERS_AT_ONCE) {
        int64_t part = count - i < NUMBERS_AT_ONCE ? count - i : NUMBERS_AT_ONCE;
        TRY(comm->transport->sum(comm->state, values + i, (int)part));
    }
    return ok();
}

struct error comm_broadcast(struct comm *comm, void *data, int64_t bytes, int root)
{
    if (!comm->transport)
        return ok();
    for (int64_t i = 0; i < bytes; i += BYTES_AT_ONCE) {
        int64_t part = bytes - i < BYTES_AT_ONCE ? bytes - i : BYTES_AT_ONCE;
        TRY(comm->transport->broadcast(comm->state, (char *)data + i, (int)part, root));
    }
    return ok();
}

struct error comm_barrier(struct comm *comm)
{
    return comm->transport ? comm->transport->barrier(comm->state) : ok();
}

struct error comm_agree(struct comm *comm, struct error e)
{
    if (!comm->transport)
        return e;
    int size = comm->place.size;
    memset(comm->failures, 0, (size_t)size * sizeof *comm->failures);
    comm->failures[comm->place.rank] = e.code != ERROR_NONE;
    TRY(comm_sum(comm, comm->failures, size));
    for (int rank = 0; rank < size; rank++) {
        if (comm->failures[rank] == 0)
            continue;
        TRY(comm_broadcast(comm, &e, sizeof e, rank));
        return e;
    }
    return ok();
}

struct error comm_abort(struct comm *comm, struct error e)
{
    if (e.code == ERROR_NONE || comm->place.size == 1)
        return e;
    log_error("rank %d: %s", comm->place.rank, e.text);
    const struct listener *l = &comm->patience.listener;
    if (l->alarm)
        l->alarm(l->arg, e.text);
    comm->transport->abort(comm->state, e.code);
    return e;
}

bool comm_asked(struct comm *comm)
{
    return comm->transport && comm->transport->called(comm->state);
}

struct error comm_roll_call(struct comm *comm)
{
    return comm->transport ? comm->transport->roll(comm->state) : ok();
}

struct error comm_share_text(struct comm *comm, char **text, int64_t *size)
{
    TRY(comm_broadcast(comm, size, sizeof *size, 0));
    if (comm->place.rank != 0)
        *text = memory_alloc(*size + 1, 1);
    TRY(comm_agree(comm, *text ? ok() : error_memory("a text of rank 0's")));
    return comm_broadcast(comm, *text, *size, 0);
}

/* -------------------------------------------------------------------------------- groups */

/* This rank's outcome; the others wait for it, so no early return. */
static struct error make_part(struct comm *comm, struct comm *part, int group)
{
    part->transport = comm->transport;
    part->patience = comm->patience;
    struct error e = comm->transport->split(comm->state, group, &part->patience, &part->state, &part->place);
    if (e.code != ERROR_NONE)
        part->transport = NULL;
    return e.code == ERROR_NONE ? take_failures(part) : e;
}

struct error comm_split(struct comm *comm, int group, struct comm **part)
{
    *part = NULL;
    struct comm *c = memory_alloc(1, sizeof *c);
    TRY(comm_agree(comm, c ? ok() : error_memory("a group's communicator")));
    struct error e;
    if (comm->transport) {
        e = comm_agree(comm, make_part(comm, c, group));
    } else {
        c->place = comm->place;
        e = take_failures(c);
    }
    if (e.code != ERROR_NONE) {
        comm_close(c);
        return e;
    }
    *part = c;
    return ok();
}

struct error comm_send(struct comm *comm, const void *data, int64_t bytes, int to)
{
    return comm->transport->send(comm->state, data, (int)bytes, to);
}

struct error comm_poll(struct comm *comm, int *from)
{
    *from = -1;
    return comm->transport ? comm->transport->poll(comm->state, from) : ok();
}

struct error comm_receive(struct comm *comm, void *data, int64_t bytes, int from)
{
    return comm->transport->receive(comm->state, data, (int)bytes, from);
}

struct error comm_wait_all(struct comm *comm, int times)
{
    return comm->transport ? comm->transport->gather(comm->state, times) : ok();
}

/* -------------------------------------------------------------------------------- shared memory */

/* Tells the others where to find the memory of the node's first rank: an unnamed file, open in that process. Containers
 * may number processes differently, hence the file's identity beside it. */
struct address {
    int64_t process, descriptor;
    uint64_t device, file;
};

static struct address address_of(int descriptor)
{
    struct stat status;
    if (descriptor < 0 || fstat(descriptor, &status) != 0)
        return (struct address){.descriptor = -1};
    return (struct address){getpid(), descriptor, status.st_dev, status.st_ino};
}

static struct error map(void **memory, int64_t bytes, int descriptor)
{
    int flags = descriptor < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *p = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, flags, descriptor, 0);
    if (p == MAP_FAILED)
        return error_memory("weights");
    *memory = p;
    return ok();
}

/* A memfd is not bounded by the size of /dev/shm, which containers keep small, and vanishes with its last user. The
 * room is allocated at once: memory that runs out later would mean a SIGBUS. */
static int make_shared(int64_t bytes)
{
    int descriptor = memfd_create("zoodip weights", MFD_CLOEXEC);
    if (descriptor >= 0 && posix_fallocate(descriptor, 0, bytes) != 0) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

static int open_shared(const struct address *address)
{
    if (address->descriptor < 0)
        return -1;
    char path[64];
    snprintf(path, sizeof path, "/proc/%lld/fd/%lld", (long long)address->process, (long long)address->descriptor);
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    struct address found = address_of(descriptor);
    if (descriptor >= 0 && (found.device != address->device || found.file != address->file)) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

/* Collective on the node to the end, whatever happens on one rank. */
static struct error share_memory(struct comm *comm, int64_t bytes, void **memory, bool *fill)
{
    bool first = comm->place.rank_here == 0;
    int descriptor = first ? make_shared(bytes) : -1;
    struct address address = address_of(descriptor);
    TRY(comm->transport->broadcast_here(comm->state, &address, sizeof address));
    if (!first)
        descriptor = open_shared(&address);
    *fill = first || descriptor < 0;
    struct error e = map(memory, bytes, descriptor);
    TRY(comm->transport->barrier_here(comm->state)); // all have opened it: the first may close
    if (descriptor >= 0)
        close(descriptor);
    return e;
}

struct error comm_shared(struct comm *comm, int64_t bytes, void **memory, bool *fill)
{
    *memory = NULL;
    *fill = true;
    bytes = bytes > 0 ? bytes : 1;
    return comm->place.ranks_here > 1 ? share_memory(comm, bytes, memory, fill) : map(memory, bytes, -1);
}

void comm_shared_free(struct comm *comm, void *memory, int64_t bytes)
{
    (void)comm;
    if (memory)
        munmap(memory, (size_t)(bytes > 0 ? bytes : 1));
}
