"""libbroker as a conan 2 package, built from the tree that this file is part of: `conan create dist/conan`.

Asks no remote for anything. What has to be there is what `make library` needs: cargo, a C compiler, binutils.
The broker program is not in the package.
"""

import glob
import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.files import copy, load, rm

required_conan_version = ">=2.0"


class RedisBroker(ConanFile):
    name = "redis-broker"
    description = "One Redis connection pool per host, shared by every process on it"
    license = "MIT OR Apache-2.0"
    topics = ("redis", "connection-pool", "multiplexing")
    package_type = "library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"shared": [True, False]}
    default_options = {"shared": False}

    def set_version(self):
        manifest = load(self, os.path.join(self.recipe_folder, "..", "..", "Cargo.toml"))
        self.version = re.search(r'^version = "(.*)"', manifest, re.M).group(1)

    def export_sources(self):
        tree = os.path.join(self.recipe_folder, "..", "..")
        for part in ("src/*", "include/*", "scripts/*", "docs/*", "dist/*", "cbindgen.toml", "build.rs"):
            copy(self, part, tree, self.export_sources_folder)
        for part in ("Cargo.*", "Makefile", "README.md", "CHANGELOG.md", "LICENSE*"):
            copy(self, part, tree, self.export_sources_folder)

    def validate(self):
        if self.settings.os != "Linux":
            raise ConanInvalidConfiguration("libbroker is for Linux")

    def configure(self):
        # The interface is C; the C++ header is compiled with the program.
        self.settings.rm_safe("compiler.cppstd")
        self.settings.rm_safe("compiler.libcxx")

    def package_id(self):
        # One build for all settings: it is optimised, has line numbers, and contains no C++.
        self.info.settings.rm_safe("build_type")
        self.info.settings.rm_safe("compiler")

    def _make(self, target):
        built = os.path.join(self.build_folder, "target")
        places = f"PREFIX=/ DESTDIR={self.package_folder} DOCDIR=/licenses" if target == "install-library" else ""
        self.run(f"make {target.format(built=built)} CARGO_TARGET_DIR={built} {places}", cwd=self.source_folder)

    def build(self):
        # The file, not the target `library`, which would also install missing packages.
        self._make("{built}/libbroker/libbroker.so")

    def package(self):
        self._make("install-library")
        library = os.path.join(self.package_folder, "lib")
        rm(self, "libbroker.a" if self.options.shared else "libbroker.so*", library)

    def package_info(self):
        self.cpp_info.libs = ["broker"]
        self.cpp_info.set_property("cmake_file_name", "broker")
        self.cpp_info.set_property("cmake_target_name", "broker::broker")
        self.cpp_info.set_property("pkg_config_name", "broker")
        if not self.options.shared:
            self.cpp_info.set_property("cmake_target_aliases", ["broker::broker_static"])
            pc = load(self, glob.glob(os.path.join(self.package_folder, "lib", "pkgconfig", "*.pc"))[0])
            private = re.search(r"^Libs\.private: (.*)", pc, re.M).group(1)
            self.cpp_info.system_libs = re.findall(r"-l(\S+)", private)
