/* schedule MODEL_DIR IN.safetensors OUT.safetensors
 *     `latent`, `noise` F32 [steps, count], a row for every timestep
 *     -> `noisy`, `target` F32 [steps, count], `alphas` F32 [steps]
 *
 * schedule MODEL_DIR IN.safetensors OUT.safetensors SAMPLER STEPS
 *     `outputs` F32 [calls or more, count]: what the network says; `samples` F32 [1, count]: the start, or
 *     [calls or more, count]: the sample to continue from at each call
 *     -> `inputs`, `samples` F32 [calls, count]: what the network is shown, and the sample after each step;
 *        `timesteps` F64 [calls], `init_sigma` F64 [1]; the noise that steps add is that of seed 3, picture 2
 */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "device/step_core.h"
#include "files/safetensors.h"
#include "files/safetensors_write.h"
#include "helper.h"
#include "model/sampler.h"

static struct error add_noise(const struct noise_schedule *schedule, const struct safetensors *in, const char *out)
{
    int64_t rows, count;
    float *latent = helper_rows(in, "latent", F32, &rows, &count),
          *noise = helper_rows(in, "noise", F32, &rows, &count);
    float *noisy = memory_alloc(rows * count, sizeof *noisy), *target = memory_alloc(rows * count, sizeof *target);
    for (int64_t t = 0; t < rows; t++) {
        float levels[2];
        noise_schedule_levels(schedule, t, levels);
        for (int64_t i = t * count; i < (t + 1) * count; i++)
            step_add_noise(latent[i], 0, 0, noise[i], 1, levels[0], levels[1], schedule->prediction == PREDICT_V,
                           noisy + i, target + i);
    }
    const struct entry results[] = {helper_entry("noisy", F32, rows, count, noisy),
                                    helper_entry("target", F32, rows, count, target),
                                    helper_entry("alphas", F32, schedule->steps, 1, schedule->alphas_cumprod)};
    struct error e = safetensors_write(out, results, 3, NULL, 0);
    memory_free(latent);
    memory_free(noise);
    memory_free(noisy);
    memory_free(target);
    return e;
}

static struct error sample(const struct noise_schedule *schedule, const struct safetensors *in, const char *out,
                           const struct sampler_type *type, int64_t steps)
{
    int64_t rows, starts, count;
    float *outputs = helper_rows(in, "outputs", F32, &rows, &count),
          *from = helper_rows(in, "samples", F32, &starts, &count);
    struct sampler s = {0};
    struct error e = type ? sampler_check(schedule, type) : error_input("unknown sampler");
    if (e.code == ERROR_NONE)
        e = sampler_new(&s, schedule, type, steps, count);
    s.seed = 3;
    if (e.code == ERROR_NONE && (rows < s.calls || (starts != 1 && starts < s.calls)))
        e = error_input("the network is called %lld times", (long long)s.calls);
    float *inputs = memory_alloc(s.calls * count, sizeof *inputs),
          *samples = memory_alloc(s.calls * count, sizeof *from);
    for (int64_t i = 0; i < s.calls && e.code == ERROR_NONE; i++) {
        const float *before = i == 0 || starts > 1 ? from + i * count : samples + (i - 1) * count;
        memcpy(samples + i * count, before, (size_t)count * sizeof *samples);
        sampler_input(&s, i, before, inputs + i * count);
        sampler_step(&s, i, outputs + i * count, samples + i * count);
    }
    const struct entry results[] = {
        helper_entry("inputs", F32, s.calls, count, inputs), helper_entry("samples", F32, s.calls, count, samples),
        helper_entry("timesteps", F64, s.calls, 1, s.timesteps), helper_entry("init_sigma", F64, 1, 1, &s.init_sigma)};
    if (e.code == ERROR_NONE)
        e = safetensors_write(out, results, 4, NULL, 0);
    sampler_free(&s);
    memory_free(outputs);
    memory_free(from);
    memory_free(inputs);
    memory_free(samples);
    return e;
}

static struct error run(int argc, char **argv)
{
    if (argc != 4 && argc != 6)
        return error_input("usage: schedule MODEL_DIR IN OUT [SAMPLER STEPS]");
    struct noise_schedule schedule;
    TRY(noise_schedule_read(&schedule, argv[1], PREDICTION_AS_MODEL));
    struct safetensors in;
    struct error e = safetensors_open(&in, argv[2]);
    if (e.code == ERROR_NONE) {
        e = argc == 4 ? add_noise(&schedule, &in, argv[3])
                      : sample(&schedule, &in, argv[3], sampler_find(argv[4]), atoll(argv[5]));
        safetensors_close(&in);
    }
    noise_schedule_free(&schedule);
    return e;
}

int main(int argc, char **argv)
{
    return helper_end("schedule", run(argc, argv));
}
