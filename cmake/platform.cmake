# Which source says what the operating system and the processor have (csrc/platform/): nothing else
# of the tree asks what it is compiled for.
set(LLAMA_RT_PLATFORM AUTO CACHE STRING
    "Services of the operating system: AUTO, linux or portable (what POSIX and C++ have)")

# Sets `result` to the sources, by absolute path.
function(llama_rt_platform_sources result)
  set(system ${LLAMA_RT_PLATFORM})
  if(system STREQUAL "AUTO")
    set(system portable)
    if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
      set(system linux)
    endif()
  endif()
  set(processor generic)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
    set(processor x86)
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
    set(processor aarch64)
    set(of_system aarch64_portable.cpp)
    if(system STREQUAL "linux")
      set(of_system aarch64_linux.cpp arm_parts.cpp)
    elseif(APPLE)
      set(of_system aarch64_apple.cpp)
    endif()
  endif()
  set(folder ${CMAKE_CURRENT_SOURCE_DIR}/csrc/platform)
  list(TRANSFORM of_system PREPEND ${folder}/processor/)
  set(${result} ${folder}/system/${system}.cpp ${folder}/processor/${processor}.cpp ${of_system}
      PARENT_SCOPE)
endfunction()
