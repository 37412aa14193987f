#include "pipeline/fingerprint.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "base/pool.h"
#include "model/contents.h"

enum { LIMIT = 8 };

struct error fingerprint_compare(struct comm *comm, const struct fingerprint *fingerprints, int64_t count)
{
    uint32_t first[LIMIT];
    for (int64_t i = 0; i < count; i++)
        first[i] = fingerprints[i].value;
    TRY(comm_broadcast(comm, first, count * (int64_t)sizeof *first, 0));
    char differ[400] = "";
    for (int64_t i = 0; i < count; i++) {
        size_t used = strlen(differ);
        if (first[i] != fingerprints[i].value)
            snprintf(differ + used, sizeof differ - used, "%s%s", used ? ", " : "", fingerprints[i].what);
    }
    struct error e = ok();
    if (differ[0])
        e = error_input("rank %d reads other data than rank 0: %s differs; expected a file system that all nodes share",
                        comm_rank(comm), differ);
    return comm_agree(comm, e);
}

uint32_t fingerprint_bytes(uint32_t crc, const void *data, int64_t bytes)
{
    return (uint32_t)crc32_z(crc, data, (size_t)bytes);
}

uint32_t fingerprint_text(uint32_t crc, const char *text)
{
    return fingerprint_bytes(crc, text, (int64_t)strlen(text) + 1);
}

struct error fingerprint_model(struct comm *comm, const char *model, const char *tokenizer, struct model_files *files)
{
    const struct contents_place mine = contents_place_of(model);
    struct contents_place first = mine;
    TRY(comm_broadcast_local(comm, &first, sizeof first));
    bool reads = comm_local_rank(comm) == 0 || memcmp(&first, &mine, sizeof mine) != 0;
    uint32_t own = 0;
    struct error e = ok();
    if (reads) // the node's other ranks wait, so their share of the cores is free
        e = contents_tensors(model, pool_default_threads(1), &own);
    TRY(comm_agree(comm, e));
    uint32_t node = own;
    TRY(comm_broadcast_local(comm, &node, sizeof node));
    *files = (struct model_files){.tensors = reads ? own : node};
    return comm_agree(comm, contents_texts(&files->texts, model, tokenizer));
}
