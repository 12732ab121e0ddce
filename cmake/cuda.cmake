# The CUDA backend, or absent.cpp in its place. LLAMA_RT_CUDA=AUTO compiles it where a GPU that it
# can use and an nvcc that works (12.8 or newer) are found, and says in a line why it does not; ON
# insists, with or without a GPU, OFF leaves it out. The runtime is linked in, so that the module
# needs no CUDA library and imports without a driver.
set(LLAMA_RT_CUDA AUTO CACHE STRING "CUDA backend: AUTO, ON or OFF")
set(LLAMA_RT_CUDA_ARCHITECTURES "" CACHE STRING "Architectures as CMake lists them, e.g. 90a-real, \
or all (as a wheel has); empty: of the GPU here, else all")

# Machine code for every generation since Ampere; PTX for later ones. 90a is for *wgmma* alone.
set(llama_rt_cuda_all 80-real 86-real 89-real 90-real 90-virtual 90a-real)
set(llama_rt_cuda_least 12.8)

# The compiler: where CMake would look, else where the toolkit installs itself.
function(llama_rt_find_nvcc result)
  if(CMAKE_CUDA_COMPILER)
    set(${result} ${CMAKE_CUDA_COMPILER} PARENT_SCOPE)
  elseif(DEFINED ENV{CUDACXX})
    set(${result} $ENV{CUDACXX} PARENT_SCOPE)
  else()
    find_program(llama_rt_nvcc nvcc
                 PATHS ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES bin NO_CACHE)
    set(${result} ${llama_rt_nvcc} PARENT_SCOPE)
  endif()
endfunction()

# Why CUDA code cannot be compiled here; empty if it can. A small source is compiled and linked,
# since an nvcc that answers may lack a host compiler that it accepts, headers or libraries.
function(llama_rt_cuda_problem result nvcc)
  if(NOT nvcc)
    set(${result} "nvcc was not found" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE text ERROR_QUIET RESULT_VARIABLE failed)
  if(failed OR NOT text MATCHES "release ([0-9.]+)")
    set(${result} "${nvcc} does not say its version" PARENT_SCOPE)
    return()
  elseif(CMAKE_MATCH_1 VERSION_LESS ${llama_rt_cuda_least})
    set(${result} "nvcc ${CMAKE_MATCH_1} is too old, ${llama_rt_cuda_least} or newer is needed"
        PARENT_SCOPE)
    return()
  endif()
  set(command ${nvcc} -std=c++20 -arch=sm_80 --expt-relaxed-constexpr -cudart=static -shared
              -Xcompiler=-fPIC ${CMAKE_CURRENT_SOURCE_DIR}/cmake/probe.cu
              -o ${CMAKE_CURRENT_BINARY_DIR}/probe.so)
  if(DEFINED ENV{CUDAHOSTCXX})
    list(APPEND command -ccbin $ENV{CUDAHOSTCXX})
  endif()
  if(llama_rt_cuda_works STREQUAL "${command} ${CMAKE_MATCH_1}")
    return()
  endif()
  set(works "${command} ${CMAKE_MATCH_1}")
  execute_process(COMMAND ${command} OUTPUT_VARIABLE text ERROR_VARIABLE text
                  RESULT_VARIABLE failed)
  if(failed)
    string(REGEX MATCH "[^\n]*([Ee]rror|fatal|unsupported|cannot|No such)[^\n]*" line "${text}")
    string(STRIP "${line}" line)
    set(${result} "${nvcc} cannot compile here: ${line}" PARENT_SCOPE)
  else()
    set(llama_rt_cuda_works "${works}" CACHE INTERNAL "how nvcc was seen to compile")
  endif()
endfunction()

# The architecture of this machine's first device ("90a-real"); PTX ("90-virtual") for one that is
# newer than every nvcc that is accepted knows; empty without a device of 8.0 or newer.
function(llama_rt_cuda_native result)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
                  OUTPUT_VARIABLE text ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    return()
  elseif(text MATCHES "^(8\\.0|8\\.6|8\\.7|8\\.9|9\\.0)")
    string(REPLACE "." "" number ${CMAKE_MATCH_1})
    string(REPLACE "90" "90a" number ${number})
    set(${result} ${number}-real PARENT_SCOPE)
  elseif(text MATCHES "^[1-9][0-9]\\.[0-9]")
    set(${result} 90-virtual PARENT_SCOPE)
  endif()
endfunction()

# A macro: enable_language must be seen by the caller.
macro(llama_rt_add_cuda module)
  set(llama_rt_cuda_reason "it is switched off")
  llama_rt_cuda_native(llama_rt_cuda_device)
  if(LLAMA_RT_CUDA STREQUAL "AUTO" AND NOT llama_rt_cuda_device)
    set(llama_rt_cuda_reason "there is no GPU that it could use (LLAMA_RT_CUDA=ON compiles it)")
  elseif(NOT LLAMA_RT_CUDA STREQUAL "OFF")
    set(llama_rt_cuda_reason "")
    llama_rt_find_nvcc(llama_rt_nvcc_found)
    llama_rt_cuda_problem(llama_rt_cuda_reason "${llama_rt_nvcc_found}")
  endif()
  if(llama_rt_cuda_reason)
    if(LLAMA_RT_CUDA STREQUAL "ON")
      message(FATAL_ERROR "LLAMA_RT_CUDA=ON: ${llama_rt_cuda_reason}")
    endif()
    message(STATUS "Without CUDA: ${llama_rt_cuda_reason}")
    target_sources(${module} PRIVATE csrc/cuda/absent.cpp)
  else()
    llama_rt_cuda_backend(${module})
  endif()
endmacro()

# Sources named *wgmma* are for sm_90a alone, all others for every architecture that is asked for.
macro(llama_rt_cuda_backend module)
  set(llama_rt_cuda_list ${LLAMA_RT_CUDA_ARCHITECTURES})
  if(NOT llama_rt_cuda_list)
    set(llama_rt_cuda_list ${llama_rt_cuda_device})
  endif()
  if(NOT llama_rt_cuda_list OR llama_rt_cuda_list STREQUAL "all")
    set(llama_rt_cuda_list ${llama_rt_cuda_all})
  endif()
  message(STATUS "With CUDA for ${llama_rt_cuda_list}")
  set(CMAKE_CUDA_COMPILER ${llama_rt_nvcc_found})
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

# Options of nvcc for a list of architectures. Those of Ampere and Ada are assembled from one
# PTX, which saves a third of the time of compiling for all.
function(llama_rt_cuda_generate result architectures)
  set(options "")
  set(ampere "")
  foreach(architecture IN LISTS architectures)
    if(NOT architecture MATCHES "^[0-9]+[af]?(-real|-virtual)?$")
      message(FATAL_ERROR "LLAMA_RT_CUDA_ARCHITECTURES: ${architecture} is not like 90, 90-real, "
                          "90-virtual or 90a-real")
    endif()
    string(REGEX MATCH "^[0-9]+[af]?" number ${architecture})
    if(architecture MATCHES "^8[0-9]-real$")
      list(APPEND ampere sm_${number})
    elseif(architecture MATCHES "-real$")
      list(APPEND options "-gencode=arch=compute_${number},code=sm_${number}")
    elseif(architecture MATCHES "-virtual$")
      list(APPEND options "-gencode=arch=compute_${number},code=compute_${number}")
    else()
      list(APPEND options
           "-gencode=arch=compute_${number},code=[compute_${number},sm_${number}]")
    endif()
  endforeach()
  if(ampere)
    list(JOIN ampere "," ampere)
    list(APPEND options "-gencode=arch=compute_80,code=[${ampere}]")
  endif()
  set(${result} ${options} PARENT_SCOPE)
endfunction()

function(llama_rt_cuda_objects module name architectures sources)
  llama_rt_cuda_generate(options "${architectures}")
  # Half the wheel otherwise; drivers for CUDA 13 unpack it.
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
    list(APPEND options --compress-mode=size)
  endif()
  add_library(${name} OBJECT ${sources})
  target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/csrc)
  target_compile_options(${name} PRIVATE ${options} --expt-relaxed-constexpr
                         -Xcompiler=-fvisibility=hidden)
  set_target_properties(${name} PROPERTIES CUDA_ARCHITECTURES OFF POSITION_INDEPENDENT_CODE ON)
  target_sources(${module} PRIVATE $<TARGET_OBJECTS:${name}>)
endfunction()
