#include <math.h>
#include <stdio.h>

#include "base/log.h"
#include "base/memory.h"
#include "commands/commands.h"
#include "commands/options.h"
#include "files/on_end.h"
#include "pipeline/learning.h"
#include "pipeline/memory_plan.h"
#include "report/gain.h"
#include "report/metrics.h"

static void print_help(void)
{
    printf("usage: zoodip train CONFIG.json [--set KEY=VALUE]... [--resume | --overwrite] [--quiet] [--log-format F]\n"
           "\n"
           "Learns one word from a folder of pictures. Under mpirun all ranks share the work; each uses the cores\n"
           "it is bound to, or OMP_NUM_THREADS threads.\n"
           "\n"
           "  --set KEY=VALUE   a config key for this run, such as zo.n=4 (may be given several times)\n"
           "  --resume          continue from the newest good checkpoint in output.dir, or start at step 0\n"
           "  --overwrite       begin anew where output.dir holds results: they are moved to previous/ there, and\n"
           "                    removed after the new run's first checkpoint\n"
           "  --quiet           only warnings and errors on stderr\n"
           "  --log-format F    plain (the default), or json: each line on stderr as an object of JSON\n"
           "\n"
           "Writes into output.dir: learned_embeds.safetensors (the best word by validation), "
           "learned_embeds-last.safetensors,\n"
           "metrics.jsonl, loss.png, grid.png, thumbnail.jpg, report.html, checkpoints/, and status.json (see zoodip\n"
           "status).\n"
           "SIGUSR1 (and SIGTERM, SIGINT) finishes the step, checkpoints and exits 75; run again with --resume.\n"
           "\n"
           "examples:\n"
           "  zoodip train configs/toybox.json\n"
           "  mpirun -np 2 zoodip train configs/sd15.json --set data.images=photos/mug --set output.dir=results/mug\n"
           "  mpirun -np 2 zoodip train configs/toybox.json --resume\n"
           "\n"
           "config keys:\n");
    config_help(stdout);
}

struct run {
    struct pipeline pipeline;
    struct subject subject;
    struct learning learning;
    const char *config; /* the config's path, and the keys set for this run */
    struct text_list sets;
    struct memory_plan plan; /* of a GPU */
    char *on_end, *folder;   /* rank 0, once the run has begun: output.on_end or NULL, and output.dir */
    double patience;         /* seconds to wait for the first */
};

static void log_done(const struct run *r)
{
    const struct config *c = &r->subject.config;
    const struct training *t = &r->learning.training;
    char why[ENDING_TEXT];
    ending_why(why, &t->state.ending, c);
    log_line("learned \"%s\": validation loss %.5f -> %.5f in %lld steps, %.1f s%s%s", c->token.placeholder,
             t->state.looked.start, t->state.looked.newest, (long long)t->state.step, t->seconds,
             why[0] ? ", ended by " : "", why);
    char gain[GAIN_TEXT];
    learning_gain(&r->learning, gain);
    if (gain[0])
        log_line("the word is that of %s", gain);
    static const char *const files[] = {"learned_embeds.safetensors", "learned_embeds-last.safetensors", "loss.png",
                                        "grid.png", "report.html"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        log_line("wrote %s/%s", c->output.dir, files[i]);
    if (c->output.emb_params)
        log_line("wrote %s/learned_embeds-emb_params.safetensors", c->output.dir);
    int64_t from, to;
    metrics_range(c->output.dir, &from, &to);
    if (from == 1 && to == t->state.step)
        log_line("wrote %s/metrics.jsonl", c->output.dir);
    else
        log_warning("%s/metrics.jsonl: lacks lines of some of the %lld steps", c->output.dir, (long long)t->state.step);
}

static void log_memory(const struct run *r)
{
    log_line("GPU memory: %lld bytes planned, %lld taken; at the end of training the driver counted %.1f MB in use, "
             "CUDA context, NCCL and other programs included",
             (long long)r->plan.most, (long long)device_memory(r->pipeline.device).most,
             (double)r->learning.driver_used / 1e6);
}

/* Rank 0: the run begins in its folder, so from now on output.on_end hears of its end, when the config is gone. */
static struct error begin(struct run *r, enum start start)
{
    const struct config *c = &r->subject.config;
    TRY(learning_prepare(&r->learning, c, start));
    if (!c->output.on_end)
        return ok();
    r->on_end = memory_string(c->output.on_end);
    r->folder = memory_string(c->output.dir);
    r->patience = fmin(ON_END_SECONDS, c->cluster.timeout / 2); // the other ranks wait, too
    return r->on_end && r->folder ? ok() : error_memory("output.on_end");
}

static void tell_end(struct run *r, struct error e)
{
    struct on_end programs = {0};
    if (r->on_end && r->folder) {
        const char *state = e.code == ERROR_NONE ? "done" : e.code == ERROR_PREEMPTED ? "stopped" : "failed";
        on_end_start(&programs, r->on_end, r->folder, state);
        on_end_wait(&programs, r->patience);
    }
    memory_free(r->on_end);
    memory_free(r->folder);
    r->on_end = r->folder = NULL;
}

/* All ranks are about to be ended: whoever watches the run, and the user's program, hears why. */
static void end_aborted(void *arg, const char *text)
{
    struct run *r = arg;
    struct on_end programs = {0};
    learning_end(&r->learning, error_failed("%s", text), NULL);
    if (r->on_end && r->folder)
        on_end_start(&programs, r->on_end, r->folder, "failed"); // nobody is left to wait for it
}

static struct error learn(struct run *r, enum start start)
{
    struct pipeline *p = &r->pipeline;
    bool gpu = device_identity(p->device) != 0, first = comm_rank(p->comm) == 0;
    if (first && device_note(p->device)[0])
        log_line("%s", device_note(p->device));
    TRY(memory_plan_check(&r->plan, &r->subject, PHASE_PICTURES));
    r->learning.subject = &r->subject;
    r->learning.last = true;
    TRY(comm_agree(p->comm, first ? begin(r, start) : ok()));
    comm_listen(p->comm, (struct comm_listener){.abort = end_aborted, .arg = r});
    TRY(subject_encode(&r->subject));
    pipeline_log_loading(p);
    TRY(pipeline_load(p));
    TRY(learning_run(&r->learning, start == START_RESUME));
    if (first && gpu)
        log_memory(r);
    if (first)
        log_done(r);
    return ok();
}

/* Rank 0: may the run begin in its folder? What is wrong with the config, all ranks say later. */
static struct error claim(struct run *r, enum start start)
{
    struct config config;
    if (config_read(&config, r->config, &r->sets).code != ERROR_NONE)
        return ok();
    struct error e = config_blame(&config, "output.on_end", on_end_check(config.output.on_end));
    if (e.code == ERROR_NONE)
        e = learning_claim(&r->learning, &config, start);
    config_free(&config);
    return e;
}

static struct error train(struct run *r, const struct host *host, enum start start)
{
    if (!r->config)
        return error_input("train needs a CONFIG.json; see zoodip train --help");
    struct error e = comm_agree(host->comm, comm_rank(host->comm) == 0 ? claim(r, start) : ok());
    if (e.code == ERROR_NONE)
        e = subject_open(&r->subject, &r->pipeline, r->config, &r->sets, host->comm, host->devices, start);
    bool opened = e.code == ERROR_NONE;
    if (opened)
        e = learn(r, start);
    comm_listen(host->comm, (struct comm_listener){0});
    learning_end(&r->learning, e, NULL);
    if (e.code == ERROR_BAD_INPUT) // after any other error a restart, with --resume, still overwrites
        learning_withdraw(&r->learning);
    learning_free(&r->learning);
    if (opened)
        subject_close(&r->subject);
    tell_end(r, e);
    return e;
}

static struct error run(int argc, char **argv, const struct host *host)
{
    struct run r = {0};
    bool resume = false, overwrite = false;
    enum start start;
    const struct option table[] = {{.name = "set", .many = &r.sets},
                                   {.name = "resume", .flag = &resume},
                                   {.name = "overwrite", .flag = &overwrite}};
    struct error e = options_read(argc, argv, table, sizeof table / sizeof *table, &r.config, 1);
    if (e.code == ERROR_NONE)
        e = options_start(resume, overwrite, &start);
    if (e.code == ERROR_NONE)
        e = train(&r, host, start);
    memory_free(r.sets.items);
    return e;
}

const struct command command_train = {"train", "learn a word from a folder of pictures, on all ranks", print_help, run,
                                      true};
