# Audit of a tier's objects: a weak symbol outside the tier's own namespace (an inline function of a
# common header, say) could be chosen by the linker for common code and run on a processor that
# lacks the tier's instructions.
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --demangle --defined-only ${object} OUTPUT_VARIABLE symbols
                  COMMAND_ERROR_IS_FATAL ANY)
  string(REPLACE "\n" ";" lines "${symbols}")
  foreach(line IN LISTS lines)
    if(line MATCHES "^[0-9a-f]+ [VWu] (.*)$" AND NOT line MATCHES "llama_rt::cpu::${TIER}::"
       AND NOT line MATCHES " DW.ref|__clang_call_terminate")
      message(FATAL_ERROR "tier ${TIER}: weak symbol outside its namespace in ${object}: ${line}")
    endif()
  endforeach()
endforeach()
