/* A double of NVML, which exists only with NVIDIA's driver: it calls itself FAKE wherever it can, and answers as the
 * real one does by its documentation (and did on one H200): an index beyond the last and an unknown UUID. No MIG instance
 * was at hand: by nvml.h it has no index, is found by UUID, has memory and processes of its own and no utilization;
 * that it refuses power, energy, clock and temperature is assumed.
 * FAKE_NVML_NAMES: the devices' names, separated by commas (two equal ones).
 * FAKE_NVML_PROCESSES: how many processes compute on each (1). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { DEVICES = 4, MIG = DEVICES };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Utilization;
typedef struct { unsigned int pid; unsigned long long memory; unsigned int gpu_instance, compute_instance; } Process;

static int devices[DEVICES + 1] = {0, 1, 2, 3, MIG};
static unsigned long long energy = 1000000;
static const char *mig = "MIG-fa6e0000-0000-0000-0000-000000000000";

#define INDEX(device) (*(int *)(device))
#define NOT_OF_MIG(device) if (INDEX(device) == MIG) return NOT_SUPPORTED

static unsigned int names(int index, char *name, unsigned int size) {
    const char *all = getenv("FAKE_NVML_NAMES");
    char copy[256];
    unsigned int count = 0;
    snprintf(copy, sizeof copy, "%s", all ? all : "FAKE device,FAKE device");
    for (char *one = strtok(copy, ","); one; one = strtok(NULL, ","))
        if ((int)count++ == index && name) snprintf(name, size, "%s", one);
    return count;
}

static void uuid_of(int index, char *text, unsigned int size) {
    if (index == MIG) snprintf(text, size, "%s", mig);
    else snprintf(text, size, "GPU-fa%de0000-0000-0000-0000-000000000000", index);
}

int nvmlInitWithFlags(unsigned int flags) { return OK; }
int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }
int nvmlSystemGetDriverVersion(char *text, unsigned int size) { snprintf(text, size, "FAKE 1.0"); return OK; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = names(-1, NULL, 0); return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    if (index >= names(-1, NULL, 0)) return INVALID_ARGUMENT;
    *device = &devices[index];
    return OK;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    char own[80];
    for (int index = 0; index <= MIG; index++) {
        uuid_of(index, own, sizeof own);
        if (strcmp(own, uuid) == 0 && (index == MIG || index < (int)names(-1, NULL, 0))) {
            *device = &devices[index];
            return OK;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(void *device, char *text, unsigned int size) { uuid_of(INDEX(device), text, size); return OK; }
int nvmlDeviceGetName(void *device, char *text, unsigned int size) {
    if (INDEX(device) == MIG) snprintf(text, size, "FAKE device MIG 1g.5gb");
    else names(INDEX(device), text, size);
    return OK;
}
int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) { memory->used = 2ULL << 30; return OK; }

int nvmlDeviceGetUtilizationRates(void *device, Utilization *use) { NOT_OF_MIG(device); use->gpu = 80; return OK; }
int nvmlDeviceGetPowerUsage(void *device, unsigned int *mw) { NOT_OF_MIG(device); *mw = 250000; return OK; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) {
    NOT_OF_MIG(device);
    *mj = energy;
    energy += 5000; /* it moves with every call */
    return OK;
}
int nvmlDeviceGetClockInfo(void *device, int type, unsigned int *mhz) {
    NOT_OF_MIG(device);
    *mhz = 1400 + type;
    return OK;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *celsius) {
    if (INDEX(device) == MIG) return INVALID_ARGUMENT;
    *celsius = 61;
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, Process *processes) {
    unsigned int running = getenv("FAKE_NVML_PROCESSES") ? atoi(getenv("FAKE_NVML_PROCESSES")) : 1;
    unsigned int room = *count;
    *count = running;
    if (running > room) return INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < running; i++) processes[i].pid = 1000 + i;
    return OK;
}
