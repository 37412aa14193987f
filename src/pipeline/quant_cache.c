#include "pipeline/quant_cache.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "files/whole_folder.h"
#include "model/quantized.h"

static const char *const parts[] = {"text_encoder", "unet"};
static const char list_name[] = "files.txt";

enum { PARTS = sizeof parts / sizeof *parts, LIST_ROOM = 256, LINE_ROOM = LIST_ROOM / PARTS };

struct error quant_cache_check(const char *cache)
{
    enum path_kind kind = PATH_FOLDER;
    if (cache)
        TRY(path_look(cache, &kind));
    return kind == PATH_FILE ? error_input("\"%.300s\": is a file, expected a folder, or the name of a new one", cache)
                             : ok();
}

static struct error find_entry(const struct pipeline *p, char entry[PATH_SIZE])
{
    char name[80];
    snprintf(name, sizeof name, "int%d-%08x-%08x-%.40s", p->choice.bits, p->files.tensors, p->files.texts,
             ZOODIP_VERSION);
    return path_join(entry, p->cache, name);
}

/* -------------------------------------------------------------------------------- what an entry's files hold */

/* A line of the list: "CRC PART/FILE". `path`: that file. */
static struct error describe(char line[LINE_ROOM], char path[PATH_SIZE], const char *entry, const char *part)
{
    char folder[PATH_SIZE];
    uint32_t crc;
    TRY(path_join(folder, entry, part));
    TRY(path_join(path, folder, quantized_weights(part)));
    TRY(file_crc(path, &crc));
    snprintf(line, LINE_ROOM, "%08x %s/%s\n", crc, part, quantized_weights(part));
    return ok();
}

static struct error write_list(const char *entry)
{
    char path[PATH_SIZE], text[LIST_ROOM] = "";
    for (int i = 0; i < PARTS; i++) {
        char line[LINE_ROOM];
        TRY(describe(line, path, entry, parts[i]));
        strcat(text, line);
    }
    TRY(path_join(path, entry, list_name));
    return file_write_whole(path, text, (int64_t)strlen(text));
}

/* Are they as they were written? */
static struct error compare_list(const char *entry)
{
    char path[PATH_SIZE], *text;
    int64_t size;
    TRY(path_join(path, entry, list_name));
    TRY(file_read(path, LIST_ROOM, &text, &size));
    struct error e = ok();
    for (int i = 0; i < PARTS && e.code == ERROR_NONE; i++) {
        char line[LINE_ROOM];
        e = describe(line, path, entry, parts[i]);
        if (e.code == ERROR_NONE && !strstr(text, line))
            e = error_input("%s: is not as it was written", path);
    }
    memory_free(text);
    return e;
}

static struct error check_entry(const char *entry)
{
    struct progress progress;
    progress_phase(&progress, "checking the quantized weights", 0, "");
    struct error e = compare_list(entry);
    progress_end(&progress);
    if (e.code != ERROR_BAD_INPUT)
        return e;
    return error_input("%.250s; remove %.190s, and it is made anew", e.text, entry);
}

/* -------------------------------------------------------------------------------- making an entry */

static struct error write_entry(const struct pipeline *p, const char *to)
{
    for (int i = 0; i < PARTS; i++)
        TRY(quantized_write_part(p->model, to, parts[i], p->choice.bits));
    return write_list(to);
}

static struct error make(const struct pipeline *p, const char *entry)
{
    struct whole_folder whole;
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    TRY(whole_folder_begin(&whole, entry, host[0] ? host : "host", p->choice.cache_wait));
    struct error e = write_entry(p, whole.temporary);
    struct error ended = whole_folder_end(&whole, e.code == ERROR_NONE);
    return error_first(e, ended);
}

/* *made: by this rank. */
static void provide(const struct pipeline *p, const char *entry, bool *made)
{
    *made = false;
    if (folder_exists(entry))
        return;
    struct error e = make(p, entry);
    *made = e.code == ERROR_NONE;
    if (e.code != ERROR_NONE && !folder_exists(entry)) // it exists if another run has made it meanwhile
        log_warning("quant.cache: %s; going on without it", e.text);
}

/* Rank 0 makes the entry, then, where nodes do not see the same disk, each node's first rank. *there: on all. */
static struct error provide_all(const struct pipeline *p, const char *entry, bool *there)
{
    struct comm *all = p->all;
    bool first = comm_rank(all) == 0, made = false;
    if (first)
        provide(p, entry, &made);
    TRY(comm_barrier(all));
    if (!first && comm_local_rank(all) == 0)
        provide(p, entry, &(bool){false});
    TRY(comm_barrier(all));
    double lacking = !folder_exists(entry);
    TRY(comm_sum(all, &lacking, 1));
    *there = lacking == 0;
    if (first && *there)
        log_line(made ? "quantized weights are kept in %s" : "quantized weights come from %s", entry);
    return ok();
}

struct error quant_cache_find(struct pipeline *p, char folder[PATH_SIZE])
{
    struct comm *all = p->all;
    char entry[PATH_SIZE];
    bool there = false;
    snprintf(folder, PATH_SIZE, "%s", p->model);
    if (!p->cache || p->simulated)
        return ok();
    if (!p->quantizes) {
        if (comm_rank(all) == 0)
            log_warning("quant.cache: is not used: no weights are quantized in this run");
        return ok();
    }
    TRY(comm_agree(all, find_entry(p, entry)));
    TRY(provide_all(p, entry, &there));
    if (!there)
        return ok();
    snprintf(folder, PATH_SIZE, "%s", entry);
    return comm_agree(all, comm_local_rank(all) == 0 ? check_entry(entry) : ok());
}
