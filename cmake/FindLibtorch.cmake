# Defines Libtorch::libtorch ourselves: the wheel's own find_package(Torch) drags in a CUDA configure.
# Looks in VITRINE_LIBTORCH, then where scripts/setup puts it.

set(_default "$ENV{VITRINE_CACHE}")
if(NOT _default)
    set(_default "$ENV{XDG_CACHE_HOME}")
    if(NOT _default)
        set(_default "$ENV{HOME}/.cache")
    endif()
    set(_default "${_default}/vitrine")
endif()

set(_hints ${VITRINE_LIBTORCH} $ENV{VITRINE_LIBTORCH})
if(VITRINE_CUDA)
    list(APPEND _hints ${_default}/libtorch-2.11.0-cuda/torch)
endif()
list(APPEND _hints ${_default}/libtorch-2.11.0/torch)

find_path(LIBTORCH_INCLUDE_DIR ATen/core/Tensor.h HINTS ${_hints} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_library(LIBTORCH_CPU_LIBRARY torch_cpu HINTS ${_hints} PATH_SUFFIXES lib NO_DEFAULT_PATH)
find_library(LIBTORCH_C10_LIBRARY c10 HINTS ${_hints} PATH_SUFFIXES lib NO_DEFAULT_PATH)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Libtorch
    REQUIRED_VARS LIBTORCH_CPU_LIBRARY LIBTORCH_C10_LIBRARY LIBTORCH_INCLUDE_DIR
    REASON_FAILURE_MESSAGE "run scripts/setup, or set VITRINE_LIBTORCH to a libtorch folder")

if(Libtorch_FOUND AND NOT TARGET Libtorch::libtorch)
    get_filename_component(_lib ${LIBTORCH_CPU_LIBRARY} DIRECTORY)
    add_library(Libtorch::libtorch INTERFACE IMPORTED)
    target_include_directories(Libtorch::libtorch SYSTEM INTERFACE ${LIBTORCH_INCLUDE_DIR} ${LIBTORCH_INCLUDE_DIR}/torch/csrc/api/include)
    target_compile_definitions(Libtorch::libtorch INTERFACE AT_PER_OPERATOR_HEADERS)
    # libtorch_cpu finds its small CUDA libraries by its own run path; the linker need not.
    target_link_options(Libtorch::libtorch INTERFACE "LINKER:--allow-shlib-undefined" "LINKER:-rpath,${_lib}")
    target_link_libraries(Libtorch::libtorch INTERFACE ${LIBTORCH_CPU_LIBRARY} ${LIBTORCH_C10_LIBRARY})
    # libtorch_cuda is not linked: the engine loads it when a device is asked for, so that one program runs on machines with and without.
endif()
mark_as_advanced(LIBTORCH_INCLUDE_DIR LIBTORCH_CPU_LIBRARY LIBTORCH_C10_LIBRARY)
