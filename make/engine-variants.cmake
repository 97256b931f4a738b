# Which CPU variants of the engine are built. Read by CMake after each project() through CMAKE_PROJECT_INCLUDE.
#
# ggml builds fourteen variants for x86-64 and one is chosen when a worker starts. Left out here:
#   sse42, sandybridge, ivybridge, piledriver   no AVX2: the worker refuses to start on them; x64 stays, so that it can say so
#   cannonlake, cooperlake                      hardly exist; their machines take skylakex and cascadelake
# ggml has no option for this. When it is about to add a variant it sets GGML_CPU_TAG_NAME, and by then the function that adds one
# is defined: it is wrapped once. Should ggml change, nothing is wrapped and all variants are built.
include_guard(GLOBAL)

set(GALERNE_VARIANTS_LEFT_OUT "sse42;sandybridge;ivybridge;piledriver;cannonlake;cooperlake" CACHE STRING "CPU variants that are not built")

function(galerne_wrap_variants variable access)
    get_property(is_wrapped GLOBAL PROPERTY GALERNE_VARIANTS_WRAPPED)
    if(is_wrapped OR NOT COMMAND ggml_add_cpu_backend_variant_impl)
        return()
    endif()
    set_property(GLOBAL PROPERTY GALERNE_VARIANTS_WRAPPED TRUE)
    # Redefining a function keeps the earlier one under its name with an underscore before it.
    function(ggml_add_cpu_backend_variant_impl tag_name)
        if(tag_name IN_LIST GALERNE_VARIANTS_LEFT_OUT)
            message(STATUS "CPU variant left out: ${tag_name}")
        else()
            _ggml_add_cpu_backend_variant_impl(${tag_name})
        endif()
    endfunction()
endfunction()

variable_watch(GGML_CPU_TAG_NAME galerne_wrap_variants)
