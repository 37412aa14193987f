#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/progress.h"
#include "cluster/signals.h"
#include "commands/commands.h"
#include "commands/gallery.h"
#include "commands/options.h"
#include "commands/plan.h"
#include "commands/subject.h"
#include "files/file.h"
#include "files/report.h"
#include "zo/train.h"

static void print_help(void)
{
    printf("usage: zoodip train CONFIG.json [--set KEY=VALUE]... [--resume]\n"
           "\n"
           "Learns one word from a folder of pictures, all ranks on it. Run it under mpirun to use several ranks; a "
           "rank takes\n"
           "the cores it is bound to, or OMP_NUM_THREADS threads.\n"
           "\n"
           "  --set KEY=VALUE   a config key for this run, such as zo.n=4 (may be given several times)\n"
           "  --resume          go on from the newest good checkpoint in output.dir; without one, start at step 0\n"
           "\n"
           "Writes into output.dir: learned_embeds.safetensors, metrics.jsonl, loss.png, grid.png, report.html, "
           "checkpoints/.\n"
           "SIGUSR1 (and SIGTERM, SIGINT) finishes the step, checkpoints and exits 75; run again with --resume.\n"
           "\n"
           "examples:\n"
           "  zoodip train configs/toybox.json\n"
           "  mpirun -np 2 zoodip train configs/toybox.json --set data.images=photos/mug --set output.dir=results/mug\n"
           "  mpirun -np 2 zoodip train configs/toybox.json --resume\n"
           "\n"
           "config keys:\n");
    config_help(stdout);
}

static bool is_checkpoint(const char *name)
{
    return strncmp(name, "step-", 5) == 0;
}

/* A run that does not resume must not find an older run's checkpoints later. */
static struct error start_anew(const struct config *c)
{
    char folder[4096], **names;
    int64_t count;
    TRY(path_join(folder, c->output.dir, "checkpoints"));
    if (!folder_exists(folder))
        return ok();
    TRY(folder_list(folder, &names, &count));
    folder_list_free(names, count);
    if (count > 0)
        log_warning("%s: starting anew removes an earlier run's checkpoints; --resume would go on from them", folder);
    return folder_clean(folder, is_checkpoint);
}

struct run {
    struct subject subject;
    struct training training;
    double started;
    const char *config; /* the config's path, and the keys set for this run */
    struct option_values sets;
    struct memory_plan plan; /* of a GPU */
    int64_t driver_used;     /* of a GPU, when training ended */
};

static struct error prepare_folder(struct run *r, bool resume)
{
    const struct config *c = &r->subject.config;
    struct error e = ok();
    if (comm_rank(r->subject.comm) == 0) {
        e = folder_make(c->output.dir);
        if (e.code == ERROR_NONE && !resume)
            e = start_anew(c);
    }
    return comm_agree(r->subject.comm, e);
}

static double peak_megabytes(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

static struct error write_report(const struct run *r, const struct gallery *gallery)
{
    const struct config *c = &r->subject.config;
    const struct training *t = &r->training;
    char title[300], text[8][128];
    snprintf(title, sizeof title, "%s: a word learned by zoodip", c->token.placeholder);
    snprintf(text[0], sizeof *text, "%s", device_name(r->subject.device));
    snprintf(text[1], sizeof *text, "%d", comm_size(r->subject.comm));
    snprintf(text[2], sizeof *text, "%lld", (long long)t->state.step);
    snprintf(text[3], sizeof *text, "%.1f s in steps, %.1f s in all (this run)", t->seconds,
             clock_seconds() - r->started);
    snprintf(text[4], sizeof *text, "%.5f, over %lld fixed draws", t->validation_first, (long long)t->validation_draws);
    snprintf(text[5], sizeof *text, "%.5f", t->validation_last);
    snprintf(text[6], sizeof *text, "%.0f MB on rank 0", peak_megabytes());
    const char *const facts[] = {"device",
                                 text[0],
                                 "ranks",
                                 text[1],
                                 "steps",
                                 text[2],
                                 "time",
                                 text[3],
                                 "validation loss at the start",
                                 text[4],
                                 "validation loss at the end",
                                 text[5],
                                 "peak memory",
                                 text[6]};
    char *json = config_json(c);
    if (!json)
        return error_memory("the report");
    struct error e = report_write(c->output.dir, title, json, facts, sizeof facts / sizeof *facts / 2, gallery->shown,
                                  gallery->shown_count);
    memory_free(json);
    return e;
}

/* Pictures, curve and report: what a run leaves for people. Collective: all ranks draw. */
static struct error finish_run(struct run *r)
{
    const struct config *c = &r->subject.config;
    struct gallery gallery;
    int64_t left;
    TRY(comm_agree(r->subject.comm, device_memory_left(r->subject.device, &left, &r->driver_used)));
    training_rest(&r->training);
    TRY(gallery_draw(&gallery, &r->subject, r->training.state.embedding));
    struct error e = ok();
    if (comm_rank(r->subject.comm) == 0) {
        e = gallery_save(&gallery, c->output.dir);
        if (e.code == ERROR_NONE)
            e = loss_picture(c->output.dir);
        if (e.code == ERROR_NONE)
            e = write_report(r, &gallery);
    }
    gallery_free(&gallery);
    return comm_agree(r->subject.comm, e);
}

/* output.sample_every: the word as it is now, drawn into samples/. */
static struct error draw_sample(void *arg, int64_t step)
{
    struct run *r = arg;
    return gallery_sample(&r->subject, r->training.state.embedding, step);
}

static void say_done(const struct run *r)
{
    const struct config *c = &r->subject.config;
    const struct training *t = &r->training;
    log_line("learned \"%s\": validation loss %.5f -> %.5f in %lld steps, %.1f s", c->token.placeholder,
             t->validation_first, t->validation_last, (long long)t->state.step, t->seconds);
    static const char *const files[] = {"learned_embeds.safetensors", "metrics.jsonl", "loss.png", "grid.png",
                                        "report.html"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        log_line("wrote %s/%s", c->output.dir, files[i]);
}

static bool on_gpu(const struct run *r)
{
    return device_memory(r->subject.device).total > 0; // the CPU's weights are host memory, and it holds nothing yet
}

/* A GPU's memory is planned before anything is done. */
static struct error plan_run(struct run *r)
{
    struct subject *s = &r->subject;
    TRY(plan_memory(&r->plan, r->config, &r->sets, s->comm));
    TRY(comm_agree(s->comm, plan_fits(&r->plan, s->device)));
    if (comm_rank(s->comm) == 0)
        log_line("GPU memory: %.1f MB planned", (double)r->plan.most / 1e6);
    return ok();
}

static void say_memory(const struct run *r)
{
    log_line(
        "GPU memory: %lld bytes planned, %lld taken; %.1f MB in use when training ended by the driver's count, which "
        "has the CUDA context, NCCL and other programs in it",
        (long long)r->plan.most, (long long)device_memory(r->subject.device).most, (double)r->driver_used / 1e6);
}

static struct error run_all(struct run *r, bool resume)
{
    bool gpu = on_gpu(r), speaks = comm_rank(r->subject.comm) == 0;
    if (speaks && device_note(r->subject.device)[0])
        log_line("%s", device_note(r->subject.device));
    if (gpu)
        TRY(plan_run(r));
    TRY(prepare_folder(r, resume));
    TRY(subject_encode(&r->subject));
    TRY(subject_load(&r->subject));
    const struct training_parts parts = subject_parts(&r->subject);
    TRY(training_new(&r->training, &parts));
    if (resume)
        TRY(training_resume(&r->training));
    TRY(training_run(&r->training, draw_sample, r));
    TRY(finish_run(r));
    if (speaks && gpu)
        say_memory(r);
    if (speaks)
        say_done(r);
    return ok();
}

struct error command_train(int argc, char **argv, struct comm *comm)
{
    const char *config = NULL;
    const char **sets = memory_take(argc, sizeof *sets);
    if (!sets)
        return error_memory("the command line");
    struct option_values many = {.items = sets};
    bool resume = false, help = false;
    int64_t plain = 0;
    const struct option table[] = {{.name = "set", .many = &many}, {.name = "resume", .flag = &resume}};
    struct error e = options_read(argc, argv, table, sizeof table / sizeof *table, &help, &config, 1, &plain);
    if (e.code == ERROR_NONE && !help && !config)
        e = error_input("train needs a CONFIG.json; see zoodip train --help");
    if (e.code == ERROR_NONE && help && comm_rank(comm) == 0)
        print_help();
    if (e.code == ERROR_NONE && !help) {
        struct run r = {.started = clock_seconds(), .config = config, .sets = many};
        signals_watch();
        e = subject_read(&r.subject, config, sets, many.count, comm);
        if (e.code == ERROR_NONE) {
            e = run_all(&r, resume);
            training_free(&r.training);
            subject_free(&r.subject);
        }
    }
    memory_free(sets);
    return e;
}
