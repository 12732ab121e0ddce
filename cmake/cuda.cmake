# The CUDA room, or absent.cpp in its place: LLAMA_RT_CUDA=AUTO takes it where there are nvcc 12.8 or
# newer and something to build for, and says why it does not; ON insists, OFF leaves it out. The
# runtime is linked in, so that the module needs no CUDA library and imports without a driver.
set(LLAMA_RT_CUDA AUTO CACHE STRING "CUDA backend: AUTO, ON or OFF")
set(LLAMA_RT_CUDA_ARCHITECTURES "" CACHE STRING
    "Architectures as CMake lists them, e.g. 90a-real; empty: of the GPU here, else all")

set(llama_rt_cuda_all 80-real 86-real 89-real 90-real 90-virtual 90a-real)
set(llama_rt_cuda_least 12.8)

# Why CUDA code cannot be compiled here; empty if it can.
function(llama_rt_cuda_problem result)
  include(CheckLanguage)
  if(CMAKE_VERSION VERSION_LESS 3.25)
    set(${result} "CMake ${CMAKE_VERSION} is too old, 3.25 or newer is needed" PARENT_SCOPE)
    return()
  endif()
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(${result} "nvcc was not found" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE text ERROR_QUIET)
  if(NOT text MATCHES "release ([0-9.]+)")
    set(${result} "${CMAKE_CUDA_COMPILER} does not say its version" PARENT_SCOPE)
  elseif(CMAKE_MATCH_1 VERSION_LESS ${llama_rt_cuda_least})
    set(${result} "nvcc ${CMAKE_MATCH_1} is too old, ${llama_rt_cuda_least} or newer is needed"
        PARENT_SCOPE)
  endif()
endfunction()

# The compute capability of this machine's first device ("90a-real"); empty without one.
function(llama_rt_cuda_native result)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
                  OUTPUT_VARIABLE text ERROR_QUIET RESULT_VARIABLE failed)
  if(NOT failed AND text MATCHES "^([0-9]+)\\.([0-9])")
    set(number ${CMAKE_MATCH_1}${CMAKE_MATCH_2})
    string(REGEX REPLACE "^90$" "90a" number ${number})
    set(${result} ${number}-real PARENT_SCOPE)
  endif()
endfunction()

# A macro: enable_language must be seen by the caller.
macro(llama_rt_add_cuda module)
  set(llama_rt_cuda_reason "it is switched off")
  if(NOT LLAMA_RT_CUDA STREQUAL "OFF")
    set(llama_rt_cuda_reason "")
    llama_rt_cuda_problem(llama_rt_cuda_reason)
    set(llama_rt_cuda_list ${LLAMA_RT_CUDA_ARCHITECTURES})
    if(NOT llama_rt_cuda_list)
      llama_rt_cuda_native(llama_rt_cuda_list)
    endif()
    if(NOT llama_rt_cuda_list AND LLAMA_RT_CUDA STREQUAL "AUTO" AND NOT llama_rt_cuda_reason)
      set(llama_rt_cuda_reason "no GPU is here to build for (LLAMA_RT_CUDA=ON builds for all)")
    endif()
    if(llama_rt_cuda_reason AND LLAMA_RT_CUDA STREQUAL "ON")
      message(FATAL_ERROR "LLAMA_RT_CUDA=ON: ${llama_rt_cuda_reason}")
    endif()
  endif()
  if(llama_rt_cuda_reason)
    message(STATUS "Without CUDA: ${llama_rt_cuda_reason}")
    target_sources(${module} PRIVATE csrc/cuda/absent.cpp)
  else()
    llama_rt_cuda_room(${module})
  endif()
endmacro()

# Sources named *wgmma* are for sm_90a alone, all others for every architecture that is asked for.
macro(llama_rt_cuda_room module)
  if(NOT llama_rt_cuda_list)
    set(llama_rt_cuda_list ${llama_rt_cuda_all})
  endif()
  message(STATUS "With CUDA for ${llama_rt_cuda_list}")
  set(CMAKE_CUDA_ARCHITECTURES ${llama_rt_cuda_list})
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)

  set(llama_rt_cuda_common ${llama_rt_cuda_list})
  list(FILTER llama_rt_cuda_common EXCLUDE REGEX "^90a")
  set(llama_rt_cuda_hopper ${llama_rt_cuda_list})
  list(FILTER llama_rt_cuda_hopper INCLUDE REGEX "^90a")
  if(NOT llama_rt_cuda_common)
    set(llama_rt_cuda_common ${llama_rt_cuda_hopper})
  endif()

  file(GLOB llama_rt_cuda_host CONFIGURE_DEPENDS csrc/cuda/*.cpp)
  list(FILTER llama_rt_cuda_host EXCLUDE REGEX "absent\\.cpp$")
  file(GLOB llama_rt_cuda_kernels CONFIGURE_DEPENDS csrc/cuda/kernels/*.cu)
  set(llama_rt_cuda_wgmma ${llama_rt_cuda_kernels})
  list(FILTER llama_rt_cuda_wgmma INCLUDE REGEX "wgmma")
  list(FILTER llama_rt_cuda_kernels EXCLUDE REGEX "wgmma")
  llama_rt_cuda_objects(${module} llama_rt_cuda_sm80 "${llama_rt_cuda_common}"
                        "${llama_rt_cuda_kernels}")
  if(llama_rt_cuda_hopper)
    llama_rt_cuda_objects(${module} llama_rt_cuda_sm90a "${llama_rt_cuda_hopper}"
                          "${llama_rt_cuda_wgmma}")
    target_compile_definitions(${module} PRIVATE LLAMA_RT_CUDA_SM90A)
  endif()
  target_sources(${module} PRIVATE ${llama_rt_cuda_host})
  target_include_directories(${module} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  list(JOIN llama_rt_cuda_list " " llama_rt_cuda_text)
  set_property(SOURCE csrc/cuda/open.cpp APPEND PROPERTY COMPILE_DEFINITIONS
               "LLAMA_RT_CUDA_ARCHITECTURES=\"${llama_rt_cuda_text}\"")
  target_link_libraries(${module} PRIVATE CUDA::cudart_static ${CMAKE_DL_LIBS} rt)
endmacro()

function(llama_rt_cuda_objects module name architectures sources)
  add_library(${name} OBJECT ${sources})
  target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/csrc)
  target_compile_options(${name} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -Xcompiler=-fvisibility=hidden>)
  set_target_properties(${name} PROPERTIES CUDA_ARCHITECTURES "${architectures}"
                        POSITION_INDEPENDENT_CODE ON)
  target_sources(${module} PRIVATE $<TARGET_OBJECTS:${name}>)
endfunction()
