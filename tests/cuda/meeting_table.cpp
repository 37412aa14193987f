// Idea: meeting_table.h.
#include "meeting_table.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
#include <string>

static size_t bytes_for(int ranks)
{
    return sizeof(struct table) + (size_t)ranks * TRAY;
}

static std::string file_of(const char *id)
{
    return std::string("/zoodip-nccl-") + id;
}

struct table *table_join(const char *id, int rank, int ranks, int device)
{
    int file = shm_open(file_of(id).c_str(), O_CREAT | O_RDWR, 0600);
    if (file < 0)
        return NULL;
    void *at = MAP_FAILED;
    if (ftruncate(file, (off_t)bytes_for(ranks)) == 0) // new bytes are zeros: empty seats
        at = mmap(NULL, bytes_for(ranks), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (at == MAP_FAILED)
        return NULL;
    struct table *t = (struct table *)at;
    t->seats[rank].device = device;
    t->seats[rank].pid = getpid();
    return t;
}

void table_leave(struct table *t, int ranks)
{
    munmap(t, bytes_for(ranks));
}

void table_unlink(const char *id)
{
    shm_unlink(file_of(id).c_str());
}

bool table_is_full(const struct table *t, int ranks)
{
    for (int r = 0; r < ranks; r++)
        if (t->seats[r].pid == 0)
            return false;
    return true;
}

bool table_all_given(const struct table *t, int ranks, uint64_t part)
{
    for (int r = 0; r < ranks; r++)
        if (t->seats[r].given < part)
            return false;
    return true;
}

bool table_all_taken(const struct table *t, int ranks, uint64_t part)
{
    for (int r = 0; r < ranks; r++)
        if (t->seats[r].taken < part)
            return false;
    return true;
}

int table_missing(const struct table *t, int ranks, uint64_t part, bool taken)
{
    for (int r = 0; r < ranks; r++) {
        const struct seat &s = t->seats[r];
        bool awaited = s.given < part || (taken && s.taken < part);
        if (awaited && (s.gone || (kill(s.pid, 0) != 0 && errno == ESRCH)))
            return r;
    }
    return -1;
}
