#include "cluster/shared_memory.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where the other ranks find the memory of the node's first rank: an unnamed file, open in that process. Containers
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

static struct error map_memory(void **memory, int64_t bytes, int descriptor)
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
static int create_file(int64_t bytes)
{
    int descriptor = memfd_create("zoodip weights", MFD_CLOEXEC);
    if (descriptor >= 0 && posix_fallocate(descriptor, 0, bytes) != 0) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

static int open_file(const struct address *address)
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
    bool first = comm_local_rank(comm) == 0;
    int descriptor = first ? create_file(bytes) : -1;
    struct address address = address_of(descriptor);
    TRY(comm_broadcast_local(comm, &address, sizeof address));
    if (!first)
        descriptor = open_file(&address);
    *fill = first || descriptor < 0;
    struct error e = map_memory(memory, bytes, descriptor);
    TRY(comm_barrier_local(comm)); // all have opened it: the first may close
    if (descriptor >= 0)
        close(descriptor);
    return e;
}

struct error shared_memory_new(struct comm *comm, int64_t bytes, void **memory, bool *fill)
{
    *memory = NULL;
    *fill = true;
    bytes = bytes > 0 ? bytes : 1;
    return comm_local_size(comm) > 1 ? share_memory(comm, bytes, memory, fill) : map_memory(memory, bytes, -1);
}

void shared_memory_free(void *memory, int64_t bytes)
{
    if (memory)
        munmap(memory, (size_t)(bytes > 0 ? bytes : 1));
}
