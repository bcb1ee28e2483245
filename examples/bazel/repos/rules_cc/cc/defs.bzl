# SPDX-License-Identifier: Apache-2.0
"""Just enough of @rules_cc for Bazel 4.2's own @bazel_tools packages.

@bazel_tools//tools/cpp and the generated @local_config_cc load the C++ rules
from here; in Bazel 4.2 those are the native rules under the same names.
"""

cc_binary = native.cc_binary
cc_import = native.cc_import
cc_library = native.cc_library
cc_proto_library = native.cc_proto_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_suite = native.cc_toolchain_suite
objc_library = native.objc_library
