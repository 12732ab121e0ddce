# Toolchain file: 64-bit ARM Linux by Debian's g++-aarch64-linux-gnu, for the Python that
# .ci/aarch64_sysroot.sh unpacks. Use:
#   cmake -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake -DLLAMA_RT_SYSROOT=DIR ...
# What CMake asks of a Python interpreter it asks of this machine's; headers and the name of the
# module are those of the unpacked one.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES LLAMA_RT_SYSROOT)

set(Python_INCLUDE_DIR ${LLAMA_RT_SYSROOT}/include)
file(STRINGS ${Python_INCLUDE_DIR}/patchlevel.h llama_rt_python REGEX "define PY_(MAJOR|MINOR)_VERSION")
string(REGEX REPLACE "[^0-9;]" "" llama_rt_python "${llama_rt_python}")
string(REPLACE ";" "" llama_rt_python "${llama_rt_python}")
set(PYTHON_MODULE_EXTENSION .cpython-${llama_rt_python}-aarch64-linux-gnu.so)
set(PYTHON_MODULE_DEBUG_POSTFIX "")
set(PYTHON_IS_DEBUG FALSE)
