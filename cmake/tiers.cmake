# One OBJECT library per ISA level: csrc/cpu/tiers/<name>/ compiled with that level's flags into
# namespace llama_rt::cpu::<name>. A level with a vec.h also compiles tiers/generic/ once more.
set(llama_rt_tiers_dir ${CMAKE_CURRENT_SOURCE_DIR}/csrc/cpu/tiers)
# Levels that compile tiers/panels/, how weights and inputs are packed; their children inherit it.
set(llama_rt_panel_levels avx2 neon)
set(LLAMA_RT_ISA_LEVELS native CACHE STRING
    "ISA levels to compile: native (those of this machine), all (as a wheel has), or names")

function(llama_rt_add_level module name)  # further arguments: the level's flags
  if(NOT "all" IN_LIST llama_rt_levels AND NOT name IN_LIST llama_rt_levels)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${llama_rt_tiers_dir}/${name}/*.cpp)
  if(EXISTS ${llama_rt_tiers_dir}/${name}/vec.h)
    file(GLOB generic CONFIGURE_DEPENDS ${llama_rt_tiers_dir}/generic/*.cpp)
  endif()
  if(name IN_LIST llama_rt_panel_levels)
    file(GLOB panels CONFIGURE_DEPENDS ${llama_rt_tiers_dir}/panels/*.cpp)
  endif()
  add_library(llama_rt_${name} OBJECT ${sources} ${generic} ${panels})
  target_include_directories(llama_rt_${name} PRIVATE
    ${CMAKE_CURRENT_SOURCE_DIR}/csrc ${llama_rt_tiers_dir}/${name} ${llama_rt_tiers_dir})
  target_compile_definitions(llama_rt_${name} PRIVATE LLAMA_RT_TIER=${name})
  # scalar has nothing that -O3 would unroll to gain: half the time of compiling it.
  set(optimize -O3)
  if(name STREQUAL "scalar")
    set(optimize -O2 -ftree-vectorize)
  endif()
  # GCC 12's own AVX-512 headers trip its uninitialized-value warnings.
  target_compile_options(llama_rt_${name} PRIVATE ${optimize} ${ARGN}
    $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized -Wno-maybe-uninitialized>)
  set_target_properties(llama_rt_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(llama_rt_${name} PRIVATE llama_rt_flags)
  target_sources(${module} PRIVATE $<TARGET_OBJECTS:llama_rt_${name}>)
  set_property(SOURCE csrc/cpu/isa.cpp APPEND PROPERTY COMPILE_DEFINITIONS LLAMA_RT_ISA_${name})
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
  llama_rt_add_level(${module} scalar)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
    set(avx2 -mavx2 -mfma -mf16c -mbmi2)
    set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)
    llama_rt_add_level(${module} avx2 ${avx2})
    llama_rt_add_level(${module} avx2_vnni ${avx2} -mavxvnni)
    llama_rt_add_level(${module} avx512 ${avx512})
    llama_rt_add_level(${module} avx512_bf16 ${avx512} -mavx512bf16)
    llama_rt_add_level(${module} amx ${avx512} -mavx512bf16 -mavx512vbmi
                       -mamx-tile -mamx-int8 -mamx-bf16)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    set_property(SOURCE csrc/cpu/isa.cpp APPEND PROPERTY COMPILE_DEFINITIONS LLAMA_RT_AARCH64)
    # GCC's scheduling before register allocation makes hundreds of spills in the tiles of products.
    set(neon -DLLAMA_RT_NEON $<$<CXX_COMPILER_ID:GNU>:-fno-schedule-insns>)
    llama_rt_add_level(${module} neon ${neon})
    llama_rt_add_level(${module} neon_dotprod ${neon} -march=armv8.2-a+dotprod)
    llama_rt_add_level(${module} neon_i8mm ${neon} -march=armv8.2-a+dotprod+i8mm)
  endif()
  llama_rt_audit_levels(${module})
endfunction()
