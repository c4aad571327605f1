# libbroker as a vcpkg overlay port, built from this source tree. Downloads nothing. Requires the tools of
# `make library`: cargo, a C compiler, binutils, make. The package does not contain the broker program.

get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." REALPATH)
find_program(BROKER_MAKE NAMES gmake make REQUIRED)
find_program(BROKER_CARGO NAMES cargo PATHS "$ENV{CARGO_HOME}/bin" "$ENV{HOME}/.cargo/bin" REQUIRED)

# One build for both configurations: it is optimised and has line numbers.
set(VCPKG_BUILD_TYPE release)

vcpkg_execute_required_process(
  COMMAND "${BROKER_MAKE}" install-library
    "CARGO=${BROKER_CARGO}"
    "CARGO_TARGET_DIR=${CURRENT_BUILDTREES_DIR}/${TARGET_TRIPLET}-rel"
    "PREFIX=${CURRENT_PACKAGES_DIR}"
    "CMAKEDIR=${CURRENT_PACKAGES_DIR}/share/broker"
    "MANDIR=${CURRENT_PACKAGES_DIR}/share/man"
    "DOCDIR=${CURRENT_PACKAGES_DIR}/share/${PORT}"
  WORKING_DIRECTORY "${SOURCE_PATH}"
  LOGNAME "install-${TARGET_TRIPLET}-rel")

if(VCPKG_LIBRARY_LINKAGE STREQUAL "static")
  file(GLOB OTHER_LINKAGE "${CURRENT_PACKAGES_DIR}/lib/libbroker.so*")
else()
  set(OTHER_LINKAGE "${CURRENT_PACKAGES_DIR}/lib/libbroker.a")
endif()
file(REMOVE ${OTHER_LINKAGE})
set(VCPKG_POLICY_MISMATCHED_NUMBER_OF_BINARIES enabled)
vcpkg_fixup_pkgconfig()

file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE-MIT" "${SOURCE_PATH}/LICENSE-APACHE")
