# One OBJECT library per ISA level, compiled with that level's flags into namespace
# llama_rt::cpu::<level>: the level's own folder, and the common sources that it does not inherit.
set(llama_rt_kernels_dir ${CMAKE_CURRENT_SOURCE_DIR}/csrc/cpu/kernels)
set(LLAMA_RT_ISA_LEVELS native CACHE STRING
    "ISA levels to compile: native (those of this machine), all (as a wheel has), or names")

# llama_rt_add_level(<module> <level> SIMD <folder> SOURCES <pattern>... FLAGS <flag>...)
# SIMD: the folder whose simd.h the level uses; SOURCES: relative to csrc/cpu/kernels.
function(llama_rt_add_level module name)
  cmake_parse_arguments(PARSE_ARGV 2 level "" SIMD "SOURCES;FLAGS")
  set(built 0)
  if("all" IN_LIST llama_rt_levels OR name IN_LIST llama_rt_levels)
    set(built 1)
  endif()
  set_property(SOURCE csrc/cpu/isa.cpp APPEND PROPERTY
    COMPILE_DEFINITIONS LLAMA_RT_HAS_${name}=${built})
  if(NOT built)
    return()
  endif()
  list(TRANSFORM level_SOURCES PREPEND ${llama_rt_kernels_dir}/)
  file(GLOB sources CONFIGURE_DEPENDS ${level_SOURCES})
  add_library(llama_rt_${name} OBJECT ${sources})
  target_include_directories(llama_rt_${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/csrc)
  target_compile_definitions(llama_rt_${name} PRIVATE LLAMA_RT_LEVEL=${name}
    LLAMA_RT_SIMD="cpu/kernels/${level_SIMD}/simd.h")
  # scalar has nothing that -O3 would unroll to gain: half the time of compiling it.
  set(optimize -O3)
  if(name STREQUAL "scalar")
    set(optimize -O2 -ftree-vectorize)
  endif()
  # GCC 12's own AVX-512 headers trip its uninitialized-value warnings.
  target_compile_options(llama_rt_${name} PRIVATE ${optimize} ${level_FLAGS}
    $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized -Wno-maybe-uninitialized>)
  set_target_properties(llama_rt_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(llama_rt_${name} PRIVATE llama_rt_flags)
  target_sources(${module} PRIVATE $<TARGET_OBJECTS:llama_rt_${name}>)
  set_property(TARGET ${module} APPEND PROPERTY LLAMA_RT_LEVELS ${name})
endfunction()

# The levels of this machine, as the module itself detects them.
function(llama_rt_native_levels result)
  if(CMAKE_CROSSCOMPILING)
    set(${result} all PARENT_SCOPE)
    return()
  endif()
  llama_rt_platform_sources(platform_sources)
  try_run(ran compiled ${CMAKE_CURRENT_BINARY_DIR}/native_levels
    SOURCES ${CMAKE_CURRENT_SOURCE_DIR}/cmake/native_levels.cpp ${platform_sources}
            ${CMAKE_CURRENT_SOURCE_DIR}/csrc/platform/cgroup.cpp
    CMAKE_FLAGS -DINCLUDE_DIRECTORIES=${CMAKE_CURRENT_SOURCE_DIR}/csrc -DCMAKE_BUILD_TYPE=Debug
    CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON
    COMPILE_OUTPUT_VARIABLE compiler_says RUN_OUTPUT_VARIABLE levels)
  if(NOT compiled OR NOT ran EQUAL 0)
    message(STATUS "ISA levels: this machine's are not known, compiling all\n${compiler_says}")
    set(levels all)
  endif()
  set(${result} ${levels} PARENT_SCOPE)
endfunction()

# After every build: nothing compiled for a level can run before the level is chosen.
function(llama_rt_audit_levels module)
  find_program(LLAMA_RT_OBJDUMP NAMES objdump llvm-objdump HINTS ENV OBJDUMP
               DOC "disassembler for the audit of ISA levels")
  if(CMAKE_OBJDUMP)
    set(LLAMA_RT_OBJDUMP ${CMAKE_OBJDUMP})
  endif()
  if(NOT CMAKE_NM OR NOT LLAMA_RT_OBJDUMP)
    message(STATUS "The audit of ISA levels is left out: there is no nm or no objdump")
    return()
  elseif(CMAKE_CXX_FLAGS MATCHES "-m(arch|cpu|avx|fma|bmi)[^ ]*")
    message(WARNING "CXXFLAGS has ${CMAKE_MATCH_0}: what is compiled may need a processor like "
                    "this one, so the audit of ISA levels is left out")
    return()
  endif()
  get_target_property(levels ${module} LLAMA_RT_LEVELS)
  set(objects "")
  foreach(level IN LISTS levels)
    string(APPEND objects "${level}\t$<JOIN:$<TARGET_OBJECTS:llama_rt_${level}>,\n${level}\t>\n")
  endforeach()
  foreach(target IN ITEMS ${module} llama_rt_common llama_rt_bindings)
    string(APPEND objects "common\t$<JOIN:$<TARGET_OBJECTS:${target}>,\ncommon\t>\n")
  endforeach()
  set(list ${CMAKE_CURRENT_BINARY_DIR}/level_objects.txt)
  file(GENERATE OUTPUT ${list} CONTENT "${objects}")
  add_custom_command(TARGET ${module} POST_BUILD VERBATIM COMMAND ${Python_EXECUTABLE}
    ${CMAKE_CURRENT_SOURCE_DIR}/cmake/check_levels.py --nm ${CMAKE_NM}
    --objdump ${LLAMA_RT_OBJDUMP} ${list})
endfunction()

function(llama_rt_add_levels module)
  set(llama_rt_levels ${LLAMA_RT_ISA_LEVELS})
  if(LLAMA_RT_ISA_LEVELS STREQUAL "native")
    llama_rt_native_levels(llama_rt_levels)
  endif()
  message(STATUS "ISA levels: ${llama_rt_levels}")
  list(APPEND llama_rt_levels scalar)  # always
  llama_rt_add_level(${module} scalar SIMD scalar SOURCES common/*.cpp)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
    set(avx2 -mavx2 -mfma -mf16c -mbmi2)
    set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)
    set(avx512_bf16 ${avx512} -mavx512bf16)
    set(amx ${avx512_bf16} -mavx512vbmi -mamx-tile -mamx-int8 -mamx-bf16)
    llama_rt_add_level(${module} avx2 SIMD x86/avx2 FLAGS ${avx2}
      SOURCES common/*.cpp gemm/*.cpp)
    llama_rt_add_level(${module} avx2_vnni SIMD x86/avx2 FLAGS ${avx2} -mavxvnni
      SOURCES gemm/quantized_matmul.cpp)
    llama_rt_add_level(${module} avx512 SIMD x86/avx512 FLAGS ${avx512}
      SOURCES common/*.cpp gemm/*_matmul.cpp)
    llama_rt_add_level(${module} avx512_bf16 SIMD x86/avx512 FLAGS ${avx512_bf16}
      SOURCES x86/avx512_bf16/*.cpp)
    llama_rt_add_level(${module} amx SIMD x86/avx512 FLAGS ${amx} SOURCES x86/amx/*.cpp)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    # GCC's scheduling before register allocation makes hundreds of spills in the tiles of matmuls.
    set(neon $<$<CXX_COMPILER_ID:GNU>:-fno-schedule-insns>)
    llama_rt_add_level(${module} neon SIMD arm/neon FLAGS ${neon}
      SOURCES common/*.cpp gemm/*.cpp)
    llama_rt_add_level(${module} neon_dotprod SIMD arm/neon FLAGS ${neon} -march=armv8.2-a+dotprod
      SOURCES gemm/quantized_matmul.cpp)
    llama_rt_add_level(${module} neon_i8mm SIMD arm/neon
      FLAGS ${neon} -march=armv8.2-a+dotprod+i8mm SOURCES arm/neon_i8mm/*.cpp)
  endif()
  llama_rt_audit_levels(${module})
endfunction()
