/* commands/plan.h
 *
 * What a run will take of a GPU's memory, found by going through the run on a GPU that is not there (device_plan): the
 * same code takes and gives back the same tensors, so that plan and truth are equal to the byte. What is not ours, the
 * CUDA context, the code of the kernels and NCCL's buffers, comes on top.
 */
#ifndef ZOODIP_COMMANDS_PLAN_H
#define ZOODIP_COMMANDS_PLAN_H

#include <stdio.h>

#include "cluster/comm.h"
#include "commands/options.h"
#include "device/device.h"
#include "files/config.h"

enum phase { PHASE_ENCODE, PHASE_TRAIN, PHASE_DRAW, PHASES };

struct memory_plan {
    struct memory_use phases[PHASES]; /* the peak of each */
    int64_t most;                     /* the largest of their sums */
};

/* Of one subject's run, from its first phase to `last`. Collective; the plan is this rank's. */
struct error plan_memory(struct memory_plan *plan, const char *config, const struct option_values *sets,
                         struct comm *comm, enum phase last);

/* The same for a queue's job, taking its config over: ranks work in groups as `comm` has them, and networks stay while
 * pictures are drawn. Each phase of the plan grows to what this job needs. */
struct error plan_job(struct memory_plan *plan, struct config *config, struct comm *comm);

/* "encode pictures" and so on. */
const char *plan_phase(enum phase phase);

/* A table, in bytes and megabytes. */
void plan_print(const struct memory_plan *plan, FILE *to);

/* ERROR_BAD_INPUT where the device has less left than the plans of all ranks on it ask for, naming what to lower;
 * else the plan is told. Collective. */
struct error plan_fits(const struct memory_plan *plan, struct device *device, struct comm *comm);

/* Both for a run that `device` is about to begin; without a GPU nothing. Collective. */
struct error plan_run(struct memory_plan *plan, const char *config, const struct option_values *sets,
                      struct device *device, struct comm *comm, enum phase last);

/* plan_fits for a rank that works alone and takes `most` bytes; `lower`: what of its work may be lowered. */
struct error plan_fits_alone(int64_t most, struct device *device, const char *lower);

#endif
