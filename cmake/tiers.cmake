# One OBJECT library per CPU tier: csrc/cpu/tiers/<name>/ compiled with that tier's flags into
# namespace llama_rt::cpu::<name>. A tier with a vec.h also compiles tiers/generic/ once more.
set(llama_rt_tiers_dir ${CMAKE_CURRENT_SOURCE_DIR}/csrc/cpu/tiers)

function(llama_rt_add_tier module name)
  file(GLOB sources CONFIGURE_DEPENDS ${llama_rt_tiers_dir}/${name}/*.cpp)
  if(EXISTS ${llama_rt_tiers_dir}/${name}/vec.h)
    file(GLOB generic CONFIGURE_DEPENDS ${llama_rt_tiers_dir}/generic/*.cpp)
  endif()
  add_library(llama_rt_${name} OBJECT ${sources} ${generic})
  target_include_directories(llama_rt_${name} PRIVATE
    ${CMAKE_CURRENT_SOURCE_DIR}/csrc ${llama_rt_tiers_dir}/${name} ${llama_rt_tiers_dir})
  target_compile_definitions(llama_rt_${name} PRIVATE LLAMA_RT_TIER=${name})
  # GCC 12's own AVX-512 headers trip its uninitialized-value warnings.
  target_compile_options(llama_rt_${name} PRIVATE -O3 ${ARGN}
    $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized -Wno-maybe-uninitialized>)
  set_target_properties(llama_rt_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
  target_link_libraries(llama_rt_${name} PRIVATE llama_rt_flags)
  target_sources(${module} PRIVATE $<TARGET_OBJECTS:llama_rt_${name}>)
  add_custom_command(TARGET ${module} POST_BUILD COMMAND ${CMAKE_COMMAND}
    -DNM=${CMAKE_NM} -DTIER=${name} "-DOBJECTS=$<TARGET_OBJECTS:llama_rt_${name}>"
    -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/check_tiers.cmake VERBATIM)
endfunction()

function(llama_rt_add_tiers module)
  llama_rt_add_tier(${module} scalar)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
    return()
  endif()
  set(avx2 -mavx2 -mfma -mf16c -mbmi2)
  set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)
  target_compile_definitions(${module} PRIVATE LLAMA_RT_X86)
  llama_rt_add_tier(${module} avx2 ${avx2})
  llama_rt_add_tier(${module} avx2_vnni ${avx2} -mavxvnni)
  llama_rt_add_tier(${module} avx512 ${avx512})
  llama_rt_add_tier(${module} avx512_bf16 ${avx512} -mavx512bf16)
  llama_rt_add_tier(${module} amx ${avx512} -mavx512bf16 -mavx512vbmi
                    -mamx-tile -mamx-int8 -mamx-bf16)
endfunction()
