#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "commands/commands.h"
#include "commands/options.h"
#include "files/file.h"
#include "queue/queue.h"
#include "queue/spool.h"

static void print_help(void)
{
    printf("usage: zoodip run JOBS.json [--set KEY=VALUE]... [--groups G] [--resume | --overwrite] [--quiet]\n"
           "       zoodip run JOBS.json --job N|NAME [--set KEY=VALUE]... [--resume | --overwrite] [--quiet]\n"
           "       zoodip run --spool DIR [DEFAULTS.json] [--set KEY=VALUE]... [--groups G] [--quiet]\n"
           "\n"
           "Learns many words, one for each job of a queue. The model is loaded once. The ranks split into groups; a\n"
           "group that is free takes the next job, the longest first. JOBS.json holds\n"
           "\n"
           "  {\"defaults\": {config keys...}, \"jobs\": [{\"name\": \"dog6\", keys that differ...}, ...]}\n"
           "\n"
           "Jobs may differ in all keys but model, device, quant.* and output.dir. A job's folder is\n"
           "output.dir/NAME.\n"
           "\n"
           "  --set KEY=VALUE   a config key for all jobs, such as optim.steps=500 (may be given several times)\n"
           "  --groups G        number of groups; auto (the default) chooses the one that finishes soonest\n"
           "  --job N|NAME      only this job of the file, by its number, counted from 1, or its name (digits alone\n"
           "                    are a number), on all ranks; other runs may do other jobs meanwhile, and the last to\n"
           "                    end writes summary.json and index.html for all\n"
           "  --resume          keep finished jobs and continue the others from their checkpoints\n"
           "  --overwrite       learn all jobs anew: a job's old results are moved to previous/ in its folder, and\n"
           "                    removed after its first checkpoint. Without either option finished jobs stay as they\n"
           "                    are, and a job that was begun is refused\n"
           "  --quiet           only warnings and errors on stderr, with a line for each job that fails; a job's\n"
           "                    log.txt stays complete\n"
           "  --log-format F    plain (the default), or json: each line on stderr and in a job's log.txt as an object\n"
           "                    of JSON, and no table at the end\n"
           "  --spool DIR       watch a folder: a config renamed into it as NAME.json is a job; its file moves to\n"
           "                    running/, then to done/, or to failed/ with the reason in NAME.txt. DEFAULTS.json\n"
           "                    holds keys that jobs leave out; results go to output.dir, else to DIR/out. To\n"
           "                    cancel a job, remove its file from running/; it goes on if the file comes back.\n"
           "                    A restart continues unfinished jobs, with --resume or without.\n"
           "\n"
           "Writes into output.dir: summary.json and index.html, which are kept up to date while jobs run (see zoodip\n"
           "status), and for each job a folder like train's, plus log.txt and job.json. If a job fails, its reason is\n"
           "recorded, the others continue, and the exit code is 1.\n"
           "SIGUSR1 (and SIGTERM, SIGINT) finishes every group's step, saves checkpoints and exits 75; run again with\n"
           "--resume.\n"
           "\n"
           "examples:\n"
           "  mpirun -np 2 zoodip run configs/queues/toybox.json\n"
           "  mpirun -np 8 zoodip run jobs.json --groups 4 --set optim.steps=2000 --set output.dir=results/night\n"
           "  mpirun -np 8 zoodip run jobs.json --groups 4 --set output.dir=results/night --resume\n"
           "  mpirun -np 8 zoodip run jobs.json --job dog6\n"
           "  mpirun -np 8 zoodip run --spool inbox configs/sd15.json --groups 8\n");
}

/* Rank 0: the queue's outcome as an error, or ok. single: only one job was to be learned. */
static struct error outcome(const struct jobs *jobs, bool single)
{
    int64_t failed = 0, open = 0;
    const struct job *first = NULL;
    for (int64_t i = 0; i < jobs->count; i++) {
        const struct job *job = &jobs->items[i];
        bool lost = !job->external && job->status.state == JOB_FAILED;
        open += job_is_pending(job);
        failed += lost;
        if (!first && lost)
            first = job;
    }
    if (open > 0)
        return error_preempted("stopped by a signal after checkpoints; run again with --resume to continue");
    if (failed > 0 && single)
        return error_failed("%s", first->status.error.text);
    if (failed > 0)
        return error_failed("%lld of %lld jobs failed, first %s: %s", (long long)failed, (long long)jobs->count,
                            first->name, first->status.error.text);
    return ok();
}

static struct error run_file(struct queue *q, const struct queue_parts *parts, const char *path,
                             const struct text_list *sets, enum start start)
{
    const struct jobs_source source = {.kind = JOBS_FILE, .name = path, .sets = sets};
    struct comm *comm = parts->comm;
    char *text = NULL; // rank 0's, since nodes may have different disks
    int64_t size = 0;
    struct error e = comm_agree(comm, comm_rank(comm) == 0 ? file_read(path, JOBS_FILE_LIMIT, &text, &size) : ok());
    if (e.code == ERROR_NONE)
        e = queue_run_file(q, &source, text, size, start);
    memory_free(text);
    TRY(e);
    return comm_agree(comm, comm_rank(comm) == 0 ? outcome(queue_jobs(q), parts->only) : ok());
}

/* --groups: a number, or auto as 0. */
static struct error read_groups(const char *text, int ranks, int64_t *groups)
{
    char *end;
    *groups = 0;
    if (!text || strcmp(text, "auto") == 0)
        return ok();
    *groups = strtoll(text, &end, 10);
    if (end == text || *end || *groups < 1 || *groups > ranks)
        return error_input(ranks == 1 ? "--groups: %s: expected auto or 1, as there is %d rank"
                                      : "--groups: %s: expected auto, or 1 to %d, the number of ranks",
                           text, ranks);
    return ok();
}

struct request {
    const char *path, *groups, *job, *spool; /* NULL: not given */
    struct text_list sets;
    bool resume, overwrite;
};

/* --job: all ranks work on it, as one group. */
static struct error read_job(const struct request *r, struct queue_parts *parts)
{
    if (!r->job)
        return ok();
    parts->only = r->job;
    if (r->groups || r->spool)
        return error_input("--job: cannot be combined with --groups or --spool");
    parts->groups = 1;
    return ok();
}

static struct error run_request(const struct request *r, const struct host *host)
{
    struct queue *queue;
    struct queue_parts parts = {.comm = host->comm, .devices = host->devices};
    if (!r->path && !r->spool)
        return error_input("run needs a JOBS.json, or --spool DIR; see zoodip run --help");
    enum start start;
    TRY(options_start(r->resume, r->overwrite, &start));
    if (r->spool && r->overwrite)
        return error_input("--overwrite: cannot be combined with --spool; move a job's old folder away instead");
    TRY(read_groups(r->groups, comm_size(host->comm), &parts.groups));
    TRY(read_job(r, &parts));
    struct error e = queue_new(&queue, &parts);
    if (e.code == ERROR_NONE)
        e = r->spool ? spool_run(queue, host->comm, r->spool, r->path, &r->sets)
                     : run_file(queue, &parts, r->path, &r->sets, start);
    queue_free(queue);
    return e;
}

static struct error run(int argc, char **argv, const struct host *host)
{
    struct request r = {0};
    const struct option table[] = {{.name = "set", .many = &r.sets},      {.name = "groups", .text = &r.groups},
                                   {.name = "job", .text = &r.job},       {.name = "spool", .text = &r.spool},
                                   {.name = "resume", .flag = &r.resume}, {.name = "overwrite", .flag = &r.overwrite}};
    struct error e = options_read(argc, argv, table, sizeof table / sizeof *table, &r.path, 1);
    if (e.code == ERROR_NONE)
        e = run_request(&r, host);
    memory_free(r.sets.items);
    return e;
}

const struct command command_run = {"run", "learn many words: groups of ranks work on a queue of subjects", print_help,
                                    run, true};
