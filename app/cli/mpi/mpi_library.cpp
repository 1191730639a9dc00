// The few calls of MPI that processes.cpp loads, in a file of their own: the program is not linked to MPI.
// The C interface alone: the old C++ one of some headers is a library of its own.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <cstdlib>

namespace {

/// Null, or what MPI says; valid for the process's life.
const char* problem(int code) {
    if (code == MPI_SUCCESS) return nullptr;
    static char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    return text;
}

int rank() {
    int out = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &out);
    return out;
}

int size() {
    int out = 1;
    MPI_Comm_size(MPI_COMM_WORLD, &out);
    return out;
}

char* room(std::size_t bytes) { return static_cast<char*>(std::malloc(bytes > 0 ? bytes : 1)); }

}  // namespace

#define VITRINE_EXPORT extern "C" __attribute__((visibility("default")))
#define VITRINE_MPI(call)                                                      \
    do {                                                                       \
        if (const char* const why = problem(call); why != nullptr) return why; \
    } while (false)

VITRINE_EXPORT const char* vitrine_mpi_join(int* my_rank, int* all) {
    // One thread at a time speaks to MPI: this one, or in training on a device the one that libtorch runs gradients in.
    int given = 0;
    VITRINE_MPI(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &given));
    if (given < MPI_THREAD_SERIALIZED) return "it takes calls of one thread only";
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    *my_rank = rank();
    *all = size();
    return nullptr;
}

/// At rank 0: the lengths by rank, and all texts after one another, which vitrine_mpi_forget() gives back.
VITRINE_EXPORT const char* vitrine_mpi_gather(const char* mine, int length, int* lengths, char** all) {
    *all = nullptr;
    VITRINE_MPI(MPI_Gather(&length, 1, MPI_INT, lengths, 1, MPI_INT, 0, MPI_COMM_WORLD));
    // One after the other, so that only each text, not their sum, has to fit an int.
    if (rank() != 0) {
        VITRINE_MPI(MPI_Send(mine, length, MPI_CHAR, 0, 1, MPI_COMM_WORLD));
        return nullptr;
    }
    std::size_t sum = 0;
    for (int i = 0; i < size(); ++i) sum += static_cast<std::size_t>(lengths[i]);
    *all = room(sum);
    if (*all == nullptr) return "not enough memory";
    char* at = *all;
    for (int i = 0; i < length; ++i) at[i] = mine[i];
    at += length;
    for (int i = 1; i < size(); ++i) {
        VITRINE_MPI(MPI_Recv(at, lengths[i], MPI_CHAR, i, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE));
        at += lengths[i];
    }
    return nullptr;
}

/// Rank 0 gives a text; the others get one, which vitrine_mpi_forget() gives back.
VITRINE_EXPORT const char* vitrine_mpi_share(char** text, int* length) {
    VITRINE_MPI(MPI_Bcast(length, 1, MPI_INT, 0, MPI_COMM_WORLD));
    if (rank() != 0) *text = room(static_cast<std::size_t>(*length));
    if (*text == nullptr) return "not enough memory";
    VITRINE_MPI(MPI_Bcast(*text, *length, MPI_CHAR, 0, MPI_COMM_WORLD));
    return nullptr;
}

/// Sums of all processes. By way of rank 0: a reduction to all may round otherwise in each process.
VITRINE_EXPORT const char* vitrine_mpi_sum(double* values, int count) {
    const bool first = rank() == 0;
    VITRINE_MPI(MPI_Reduce(first ? MPI_IN_PLACE : values, first ? values : nullptr, count, MPI_DOUBLE, MPI_SUM, 0,
                           MPI_COMM_WORLD));
    VITRINE_MPI(MPI_Bcast(values, count, MPI_DOUBLE, 0, MPI_COMM_WORLD));
    return nullptr;
}

VITRINE_EXPORT void vitrine_mpi_forget(char* text) { std::free(text); }
VITRINE_EXPORT void vitrine_mpi_leave() { MPI_Finalize(); }
VITRINE_EXPORT void vitrine_mpi_abort(int status) { MPI_Abort(MPI_COMM_WORLD, status); }
