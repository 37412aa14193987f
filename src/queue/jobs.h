/* queue/jobs.h
 *
 * The jobs of a queue: {"defaults": {config...}, "jobs": [{"name": "dog6", config keys that differ...}, ...]}. A job's
 * config is the defaults with its own keys over them, and --set over both; its folder is output.dir/NAME.
 *
 * A file in which a job changes what none may change is refused before anything runs: model, device and quant.*, which
 * the loaded model depends on, and output.dir. Names become folders: at most 200 bytes, no slash, no control character,
 * no leading dot, no duplicates. Anything else that is wrong with a job is that job's own error, and the others
 * continue.
 */
#ifndef ZOODIP_QUEUE_JOBS_H
#define ZOODIP_QUEUE_JOBS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/progress.h"
#include "cluster/comm.h"
#include "files/config.h"
#include "pipeline/subject.h"
#include "report/gain.h"
#include "zo/ending.h"
#include "zo/previous.h"

/* A file's jobs are checked together, as said above. A spool's arrive one by one, and anything wrong with one is its own
 * error. */
enum jobs_kind { JOBS_FILE, JOBS_SPOOL };

/* Where jobs come from; its texts outlive them. */
struct jobs_source {
    enum jobs_kind kind;
    const char *name;             /* of the file, or of the spool's folder, for errors */
    const char *defaults;         /* the file with a spool's defaults, or NULL */
    const struct text_list *sets; /* --set, over the keys of all jobs */
};

/* JOB_STOPPED goes on with the next run; JOB_CANCELLED, whose file was taken out of the spool, only if it is put there
 * again. */
enum job_state { JOB_WAITING, JOB_RUNNING, JOB_STOPPED, JOB_DONE, JOB_FAILED, JOB_CANCELLED, JOB_STATES };

enum { HOST_TEXT = 64 };

/* The text of a state, as in summary.json, and the state of a text: JOB_WAITING if there is none. */
const char *job_state_name(int64_t state);
int64_t job_state_of(const char *name);

/* How far a job is: reported by the group that works on it, known to rank 0. */
struct job_status {
    int64_t job; /* its place in the list; -1: none */
    int64_t state, group, step;
    double loss, validation_first, validation, validation_best, evaluations, seconds, evaluations_per_second;
    int64_t best_step;          /* that of the word; 0: no validation was below the first, and it is the last */
    char gain[GAIN_TEXT];       /* that in words; "": not known */
    int64_t last;               /* the last step, as it is planned now; 0: the one wanted */
    char ended[ENDING_TEXT];    /* why it is not the one wanted (ending_why), or "" */
    char phase[PROGRESS_BRIEF]; /* what it does besides steps, "generating pictures 3/8"; "": nothing */
    double left;                /* seconds, of the phase or else of the job; negative if not known */
    int64_t ranks;              /* of its group */
    char host[HOST_TEXT];       /* where the group's leader runs, or "" */
    double since;               /* when its state began, in seconds since 1970, as all times here; 0: not known */
    double moved;               /* when a step or a phase was last seen to go on */
    double interval;            /* the longest pause between two such times so far, in seconds */
    double finished;            /* 0: not yet */
    struct error error;         /* of a job that failed */
};

/* That of a job of which nothing is known: its losses are NAN. */
struct job_status job_status_unknown(int64_t job);

/* What queue/display.h last showed of a job. */
struct job_shown {
    double when;
    int64_t state;
};

struct job {
    char *name;
    char *folder;                  /* output.dir/NAME; NULL if the config is wrong */
    char *keys;                    /* its own config keys, a JSON object as text */
    char *recipe;                  /* see config_recipe */
    struct config config;          /* until the subject takes it over */
    const struct subject *subject; /* borrowed from the group that works on the job; else NULL */
    bool cancelled;                /* it is to stop */
    bool external;                 /* left to other runs; shown as its job.json says */
    bool past;                     /* it ended in an earlier run of the spool, and is only shown; external, too */
    enum start start;              /* what becomes of results in its folder */
    bool announced;                /* by previous_announce, and it has not begun yet */
    int64_t sources;               /* of an earlier run that finished it, see dataset_sources; -1: not known */
    double submitted;              /* in seconds since 1970; 0: together with the queue */
    int64_t steps;                 /* wanted */
    double cost;                   /* evaluations x pixels, to order jobs by length */
    int64_t lanes;                 /* evaluations of a step */
    double begun;                  /* when this run handed it out, in seconds since 1970; 0: it has not */
    int64_t first_step;            /* where it was then; negative: not known yet */
    struct job_status status;
    struct job_shown shown;
};

struct cJSON;

/* Rank 0 holds the list; the other ranks have no items, only what makes a config of a job's keys. */
struct jobs {
    struct jobs_source source;
    struct cJSON *defaults;
    char *folder; /* output.dir of the defaults */
    struct job *items;
    int64_t count, room;
};

/* Reads the text of a jobs file (a zero byte after its `size`), on rank 0. Looks at nothing else on the disk but the
 * folders of models that differ in name. Wrong jobs get state JOB_FAILED and their error. Returns an error if the file
 * is refused as a whole, or if none of its jobs is right. Free with jobs_free, after an error too. */
struct error jobs_read(struct jobs *jobs, const struct jobs_source *source, const char *text, int64_t size);

/* An empty list for a spool, whose defaults it takes over; free it likewise, after an error too. */
struct error jobs_begin(struct jobs *jobs, const struct jobs_source *source, struct cJSON *defaults);

/* Adds a spool's job, on rank 0; *added is valid until the next one. It takes the place of one that has ended if that has
 * its name and is not done, or if the list has grown long. An error only if there is no memory: what is wrong with the
 * job is in its status. */
struct error jobs_add(struct jobs *jobs, const char *name, const struct cJSON *keys, enum start start, double submitted,
                      struct job **added);

/* The same for a job of which no more is known than how it ended, before this run. */
struct error jobs_add_past(struct jobs *jobs, const char *name, const struct job_status *status, int64_t wanted,
                           double submitted);

/* After rank 0 has read or begun: gives the other ranks the defaults and the folder. `source`: theirs. Collective. */
struct error jobs_share(struct jobs *jobs, const struct jobs_source *source, struct comm *comm);

/* Sets config, folder, recipe and what follows from them, from the job's own keys. ERROR_BAD_INPUT: they are wrong. */
struct error job_read_keys(const struct jobs *jobs, struct job *job, const struct cJSON *keys);

/* Whether an object of config keys has output.dir, nested or with a dot. */
bool job_sets_folder(const struct cJSON *config);

/* Whether a job may have this name: ERROR_BAD_INPUT says why not. */
struct error job_name_check(const char *name);

void jobs_free(struct jobs *jobs);
void job_free(struct job *job);

/* The place of a job, by its number, counted from 1, or else its name: digits alone are a number, so that numbers mean the
 * same whatever jobs are called. */
struct error jobs_find(const struct jobs *jobs, const char *which, int64_t *at);

/* Leaves all jobs but that one to other runs. */
struct error jobs_select(struct jobs *jobs, const char *which);

/* Whether a job is this run's and has not ended; the first such job, or NULL. */
bool job_is_pending(const struct job *job);
struct job *jobs_first_pending(struct jobs *jobs);

/* Sets the job's recipe to that of a config. */
struct error job_set_recipe(struct job *job, const struct config *config);

/* Marks the job as failed with an error. */
void job_fail(struct job *job, struct error e);

#endif
