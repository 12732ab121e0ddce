# Flags shared by all code. No vector flags here: they belong to the ISA levels.
add_library(llama_rt_flags INTERFACE)
target_compile_options(llama_rt_flags INTERFACE
  -fvisibility=hidden -fvisibility-inlines-hidden -fno-math-errno -ffp-contract=off
  -Wall -Wextra -Wpedantic -Wconversion)
if(LLAMA_RT_WERROR)
  target_compile_options(llama_rt_flags INTERFACE -Werror)
endif()
if(LLAMA_RT_SANITIZE)
  target_compile_options(llama_rt_flags INTERFACE -fsanitize=${LLAMA_RT_SANITIZE} -g -O1)
  target_link_options(llama_rt_flags INTERFACE -fsanitize=${LLAMA_RT_SANITIZE})
endif()
