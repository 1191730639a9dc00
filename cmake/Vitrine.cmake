# The helpers every CMakeLists.txt here uses: they know the flags, the caller names the files.

find_program(VITRINE_CCACHE ccache)
if(VITRINE_CCACHE)
    # Precompiled headers are cached only when ccache is told that their defines and times do not matter.
    set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${VITRINE_CCACHE})
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${VITRINE_CCACHE})
endif()

add_library(vitrine_flags INTERFACE)
target_compile_options(vitrine_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # GCC 12 warns of overflows in std::string that cannot happen (GCC bug 105651, mended in 13).
    target_compile_options(vitrine_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict -Wno-stringop-overflow>)
endif()
if(VITRINE_WERROR)
    # Where debug information is made, GCC 12 says of the same bug that an array's bounds are passed.
    target_compile_options(vitrine_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror -Wno-error=array-bounds>)
endif()
if(VITRINE_SANITIZE)
    target_compile_options(vitrine_flags INTERFACE -fsanitize=${VITRINE_SANITIZE} -fno-omit-frame-pointer)
    target_link_options(vitrine_flags INTERFACE -fsanitize=${VITRINE_SANITIZE})
endif()
if(VITRINE_HEADERS)
    target_include_directories(vitrine_flags SYSTEM INTERFACE ${VITRINE_HEADERS})
endif()
# fmt as a header-only library: one dependency less to carry to machines that have headers only.
target_compile_definitions(vitrine_flags INTERFACE FMT_HEADER_ONLY=1)

# What tests of tensors and their precompiled header are compiled with: one that was made otherwise would be dropped.
# Tests are not hot, and -O3 takes a third of the time that they compile.
function(vitrine_like_tensor_tests target)
    set_target_properties(${target} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
    target_compile_options(${target} PRIVATE -fPIC $<$<CONFIG:Release>:-O1>)
endfunction()

# A test program for one module. Extra arguments of ctest go in LABELS.
function(vitrine_add_test target)
    cmake_parse_arguments(ARG "" "" "SOURCES;LINKS;LABELS;ENVIRONMENT" ${ARGN})
    if(NOT VITRINE_TESTS OR NOT ARG_SOURCES)
        return()
    endif()
    add_executable(${target} ${ARG_SOURCES})
    target_link_libraries(${target} PRIVATE ${ARG_LINKS} vitrine_own_folder vitrine_flags GTest::gmock GTest::gtest_main)
    target_compile_definitions(${target} PRIVATE VITRINE_SOURCE_DIR="${CMAKE_SOURCE_DIR}" VITRINE_BINARY_DIR="${CMAKE_BINARY_DIR}")
    if(TARGET vitrine_tensor_tests AND ARG_LINKS MATCHES "vitrine_engine|plugin_")
        vitrine_like_tensor_tests(${target})
        target_precompile_headers(${target} REUSE_FROM vitrine_tensor_tests)
    endif()
    set(properties TIMEOUT 300)
    if(ARG_LABELS)
        list(APPEND properties LABELS "${ARG_LABELS}")
    endif()
    if(ARG_ENVIRONMENT)
        list(APPEND properties ENVIRONMENT "${ARG_ENVIRONMENT}")
    endif()
    gtest_discover_tests(${target} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60 PROPERTIES ${properties})
endfunction()

# Compiles the sources of a library several at a time: what they include is read once (eight files of a plugin in 16 s
# instead of 96 s). Off where one file is edited again and again.
function(vitrine_compile_together target count)
    if(VITRINE_TOGETHER)
        set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${count})
    endif()
endfunction()

# A library of this project, with its unit tests beside its sources.
#   vitrine_add_module(vitrine_base SOURCES a.cpp TESTS a_test.cpp PUBLIC fmt PRIVATE nlohmann_json INCLUDE dir)
function(vitrine_add_module target)
    cmake_parse_arguments(ARG "" "" "SOURCES;TESTS;PUBLIC;PRIVATE;INCLUDE" ${ARGN})
    add_library(${target} STATIC ${ARG_SOURCES})
    target_include_directories(${target} PUBLIC ${ARG_INCLUDE})
    target_link_libraries(${target} PUBLIC ${ARG_PUBLIC} vitrine_flags PRIVATE ${ARG_PRIVATE})
    vitrine_add_test(${target}_test SOURCES ${ARG_TESTS} LINKS ${target} ${ARG_PRIVATE})
endfunction()

# A plugin: one folder, one paper or family. plugin.cpp holds VITRINE_PLUGIN(name, ...).
# NEEDS_OPENCV leaves it out, aloud, where OpenCV is not built in.
function(vitrine_add_plugin name)
    cmake_parse_arguments(ARG "NEEDS_OPENCV" "PAPER" "SOURCES;TESTS;LINKS" ${ARGN})
    if(ARG_NEEDS_OPENCV AND NOT VITRINE_OPENCV)
        message(STATUS "plugin ${name} left out: it needs OpenCV")
        return()
    endif()
    vitrine_add_module(plugin_${name} SOURCES ${ARG_SOURCES} PUBLIC vitrine_engine PRIVATE ${ARG_LINKS})
    target_precompile_headers(plugin_${name} REUSE_FROM vitrine_engine)
    vitrine_compile_together(plugin_${name} 8)
    vitrine_add_test(plugin_${name}_test SOURCES ${ARG_TESTS} LINKS plugin_${name})
    set_property(GLOBAL APPEND PROPERTY VITRINE_PLUGINS ${name})
endfunction()

# Compiles GLSL to SPIR-V word lists under the build folder: shaders/NAME.comp becomes <shaders/NAME.comp.inc>.
# Without glslc the lists are taken from VITRINE_HEADERS/shaders.
function(vitrine_add_shaders target)
    cmake_parse_arguments(ARG "" "" "SOURCES" ${ARGN})
    find_program(VITRINE_GLSLC glslc)
    if(NOT VITRINE_GLSLC)
        if(NOT EXISTS ${VITRINE_HEADERS}/shaders)
            message(FATAL_ERROR "glslc was not found and VITRINE_HEADERS holds no compiled shaders; install glslc")
        endif()
        return()
    endif()
    foreach(source ${ARG_SOURCES})
        get_filename_component(name ${source} NAME)
        set(out ${CMAKE_BINARY_DIR}/generated/shaders/${name}.inc)
        add_custom_command(
            OUTPUT ${out}
            COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/generated/shaders
            COMMAND ${VITRINE_GLSLC} --target-env=vulkan1.2 -O -mfmt=c -MD -MF ${out}.d -MT ${out} -I ${CMAKE_SOURCE_DIR}/shaders -o ${out} ${source}
            DEPENDS ${source}
            DEPFILE ${out}.d
            COMMENT "glslc ${name}")
        target_sources(${target} PRIVATE ${out})
    endforeach()
    target_include_directories(${target} PRIVATE ${CMAKE_BINARY_DIR}/generated)
endfunction()
