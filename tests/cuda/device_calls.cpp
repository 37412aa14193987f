// "Device Management" and "Version Management": which devices exist, and their properties.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"
#include "runtime.h"

static int number_from(const char *variable, int otherwise)
{
    const char *asked = getenv(variable);
    return asked ? atoi(asked) : otherwise;
}

// CUDA Programming Guide, "CUDA Environment Variables": a sequence of numbers; "if one of the indices is invalid, only
// the devices whose index precedes the invalid index are visible".
std::vector<int> visible_devices()
{
    int there = number_from("ZOODIP_STANDIN_DEVICES", 1);
    const char *asked = getenv("CUDA_VISIBLE_DEVICES");
    std::vector<int> visible;
    for (int i = 0; !asked && i < there; i++)
        visible.push_back(i);
    while (asked && *asked) {
        char *end;
        long device = strtol(asked, &end, 10);
        if (end == asked || device < 0 || device >= there)
            break;
        visible.push_back((int)device);
        asked = *end == ',' ? end + 1 : "";
    }
    return visible;
}

// Limits: Programming Guide, table "Technical Specifications per Compute Capability"; matrix units: units.h. The first
// is no card: it has so few processors and so little shared memory that small tests reach every kernel, and adds as the
// H100 does, on which runs are meant to be. Turing's own mma takes 8 k.
static const struct units AMPERE = {8, 24}, HOPPER = {16, 25};
static const struct model models[] = {
    {"stand-in GPU", 8, 6, 28, 99 << 10, HOPPER},
    {"stand-in H100", 9, 0, 132, 227 << 10, HOPPER},
    {"stand-in A100", 8, 0, 108, 163 << 10, AMPERE},
    {"stand-in T4", 7, 5, 40, 64 << 10, AMPERE},
};

const struct model &device_model()
{
    const char *asked = getenv("ZOODIP_STANDIN_GPU");
    for (const struct model &m : models)
        if (asked && strstr(m.name, asked))
            return m;
    return models[0];
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 0;
    cudaError_t code = enter("cudaGetDeviceCount", cudaErrorInitializationError);
    if (code == cudaSuccess)
        *count = (int)visible_devices().size();
    return leave(code);
}

static cudaError_t check_device(int device)
{
    return device < 0 || device >= (int)visible_devices().size() ? cudaErrorInvalidDevice : cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    cudaError_t code = enter("cudaSetDevice", cudaErrorMemoryAllocation); // this creates the context
    if (code == cudaSuccess)
        code = check_device(device);
    if (code == cudaSuccess)
        runtime.device = device;
    return leave(code);
}

cudaError_t cudaGetDevice(int *device)
{
    cudaError_t code = enter("cudaGetDevice", cudaErrorInitializationError);
    if (code == cudaSuccess)
        *device = runtime.device;
    return leave(code);
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attr, int device)
{
    cudaError_t code = enter("cudaDeviceGetAttribute", cudaErrorInvalidDevice);
    if (code == cudaSuccess)
        code = check_device(device);
    if (code != cudaSuccess)
        return leave(code);
    const struct model &m = device_model();
    const struct {
        cudaDeviceAttr attr;
        int value;
    } attributes[] = {
        {cudaDevAttrMaxThreadsPerBlock, 1024},
        {cudaDevAttrMaxSharedMemoryPerBlock, 48 << 10},
        {cudaDevAttrWarpSize, 32},
        {cudaDevAttrMultiProcessorCount, m.processors},
        {cudaDevAttrL2CacheSize, 4 << 20},
        {cudaDevAttrMaxThreadsPerMultiProcessor, 1536},
        {cudaDevAttrComputeCapabilityMajor, m.major},
        {cudaDevAttrComputeCapabilityMinor, m.minor},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, (int)m.shared_most + 1024},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, (int)m.shared_most},
    };
    for (auto &a : attributes)
        if (a.attr == attr) {
            *value = a.value;
            return cudaSuccess;
        }
    return leave(cudaErrorInvalidValue);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device)
{
    cudaError_t code = enter("cudaGetDeviceProperties", cudaErrorInvalidDevice);
    if (code == cudaSuccess)
        code = check_device(device);
    if (code != cudaSuccess)
        return leave(code);
    const struct model &m = device_model();
    *prop = {};
    snprintf(prop->name, sizeof(prop->name), "%s", m.name);
    snprintf(prop->uuid.bytes, sizeof(prop->uuid.bytes), "stand-in %d", visible_devices()[(size_t)device]);
    prop->totalGlobalMem = (size_t)device_limit();
    prop->sharedMemPerBlock = 48 << 10;
    prop->sharedMemPerBlockOptin = m.shared_most;
    prop->major = m.major;
    prop->minor = m.minor;
    prop->multiProcessorCount = m.processors;
    return cudaSuccess;
}

// "If no driver is installed, then 0 is returned as the driver version"; an answer in any case.
cudaError_t cudaDriverGetVersion(int *version)
{
    enter("cudaDriverGetVersion", cudaSuccess);
    *version = number_from("ZOODIP_STANDIN_DRIVER", CUDART_VERSION);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    enter("cudaRuntimeGetVersion", cudaSuccess);
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    cudaError_t code = enter("cudaMemGetInfo", cudaErrorInvalidValue);
    if (code == cudaSuccess) {
        *total = (size_t)device_limit();
        *free = (size_t)(device_limit() - device_usage.bytes);
    }
    return leave(code);
}
