/* kernels/outliers.cu
 *
 * How large each channel of a tangent is, from which the host finds the outliers (device/outliers.c): once in a run, in
 * a pass that waits for the result.
 *
 * Idea. A block has 32 channels. Each of its warps sums the squares of every eighth position, and then the first adds
 * the eight sums; all in double and in an order that never changes.
 */
#include <math.h>
#include <string.h>

#include "kernels/cuda.h"

enum { WARPS = 8 };

struct rms_args {
    struct view<const float> x; /* one lane */
    double *squares;            /* [channels] */
};

static __global__ void __launch_bounds__(WARPS * 32) sum_squares(const struct rms_args a)
{
    double *sums = (double *)shared_memory; /* [WARPS][32] */
    int warp = (int)threadIdx.x / 32, channel = (int)blockIdx.x * 32 + (int)threadIdx.x % 32;
    double sum = 0;
    for (int position = warp; position < a.x.positions && channel < a.x.channels; position += WARPS) {
        double x = row_of(a.x, 0, position)[channel];
        sum += x * x;
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (warp > 0 || channel >= a.x.channels)
        return;
    for (int i = 1; i < WARPS; i++)
        sum += sums[i * 32 + threadIdx.x];
    a.squares[channel] = sum;
}

static struct error fetch(struct device *device, double *to, const double *from, int64_t count)
{
    size_t bytes = (size_t)count * sizeof *to;
    cudaStream_t stream = cuda_of(device)->stream;
    TRY(nccl_wait(device));
    TRY(cuda_error(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync"));
    return cuda_error(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

void cuda_channel_rms(struct device *device, double *rms, struct tensor x, int64_t lane)
{
    struct rms_args a = {view_of<const float>(tensor_lanes(x, lane, 1)), (double *)cuda_of(device)->moments};
    memset(rms, 0, (size_t)x.channels * sizeof *rms);
    if (x.channels > MOMENTS)
        return device_fail(device, error_failed("outliers of %lld channels", (long long)x.channels));
    launch(device, "sum_squares", sum_squares, dim3((unsigned)blocks_for(x.channels, 32)), WARPS * 32,
           WARPS * 32 * sizeof(double), a);
    struct error e = fetch(device, rms, a.squares, x.channels);
    if (e.code != ERROR_NONE)
        device_fail(device, e);
    for (int64_t i = 0; i < x.channels; i++)
        rms[i] = sqrt(rms[i] / (double)a.x.positions);
}
