#include "io/hdf5.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <exception>
#include <system_error>

#include "core/error.hpp"
#include "io/files.hpp"

namespace moesaic::io::hdf5 {
namespace {

using core::ExitCode;
using core::fail;
using core::printable;
using core::require;

/// Links that one file may have, and how deep groups may be nested, which bounds the work on a group that holds itself.
constexpr std::size_t max_links = 1'000'000;
constexpr int max_depth = 32;

/// The text between `before` and `after`, empty if there is none.
std::string_view between(std::string_view text, std::string_view before, std::string_view after) {
    const std::size_t begin = text.find(before);
    if (begin == std::string_view::npos) {
        return {};
    }
    text.remove_prefix(begin + before.size());
    return text.substr(0, text.find(after));
}

Properties file_access(const Context& context) {
    Properties properties(check(H5Pcreate(H5P_FILE_ACCESS), context, "file"));
    check(H5Pset_libver_bounds(properties.get(), H5F_LIBVER_V110, H5F_LIBVER_V110), context, "file");
    // Locks fail on some cluster file systems; nobody writes to a file that others see.
    check(H5Pset_file_locking(properties.get(), 0, 1), context, "file");
    check(H5Pset_fclose_degree(properties.get(), H5F_CLOSE_STRONG), context, "file");
    return properties;
}

Attribute create_attribute(const File& file, const std::string& name, hid_t type, const Context& context) {
    const DataSpace space(check(H5Screate(H5S_SCALAR), context, name));
    return Attribute(
        check(H5Acreate2(file.get(), name.c_str(), type, space.get(), H5P_DEFAULT, H5P_DEFAULT), context, name));
}

struct ScalarAttribute {
    Attribute handle;
    DataType type;
};

/// Opens a scalar attribute whose type is of the given class.
ScalarAttribute open_attribute(const File& file, const std::string& name, H5T_class_t type_class,
                               const Context& context) {
    const htri_t exists = check(H5Aexists(file.get(), name.c_str()), context, name);
    require(exists > 0, ExitCode::corrupt_input,
            "can't read {} (it has no attribute '{}'); check that it was written by moesaic", context.file.string(),
            name);
    Attribute attribute(check(H5Aopen(file.get(), name.c_str(), H5P_DEFAULT), context, name));
    DataType type(check(H5Aget_type(attribute.get()), context, name));
    const DataSpace space(check(H5Aget_space(attribute.get()), context, name));
    require(H5Tget_class(type.get()) == type_class && H5Sget_simple_extent_npoints(space.get()) == 1,
            ExitCode::corrupt_input,
            "can't read {} (its attribute '{}' has another type); check that it was written by "
            "moesaic",
            context.file.string(), name);
    return {std::move(attribute), std::move(type)};
}

struct Link {
    std::string name;
    bool hard;
};

struct Links {
    std::vector<Link> list;
    std::exception_ptr error;
};

/// Callback of H5Literate; no exception may pass through the library.
herr_t collect_link(hid_t /*group*/, const char* name, const H5L_info_t* info, void* links) noexcept {
    auto& found = *static_cast<Links*>(links);
    try {
        found.list.push_back({name, info->type == H5L_TYPE_HARD});
        return found.list.size() > max_links ? -1 : 0;
    } catch (...) {
        found.error = std::current_exception();
        return -1;
    }
}

class DatasetLister {
public:
    explicit DatasetLister(const Context& context) : context_(context) {}

    void visit(hid_t group, const std::string& prefix, int depth) {
        Links links;
        hsize_t position = 0;
        const herr_t status = H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, &position, collect_link, &links);
        if (links.error) {
            std::rethrow_exception(links.error);
        }
        check(status, context_, prefix);
        seen_ += links.list.size();
        require(seen_ <= max_links && depth <= max_depth, ExitCode::corrupt_input,
                "can't read {} (its groups are nested too deep or have too many members); get the file again",
                context_.file.string());
        for (const Link& link : links.list) {
            const std::string path = prefix + link.name;
            require(link.hard, ExitCode::corrupt_input,
                    "can't read {} ('{}' is a soft or external link, which no checkpoint has); get the file again",
                    context_.file.string(), printable(path));
            const Object object(check(H5Oopen(group, link.name.c_str(), H5P_DEFAULT), context_, path));
            const H5I_type_t type = H5Iget_type(object.get());
            require(type == H5I_GROUP || type == H5I_DATASET, ExitCode::corrupt_input,
                    "can't read {} ('{}' is neither group nor dataset); get the file again", context_.file.string(),
                    printable(path));
            if (type == H5I_GROUP) {
                visit(object.get(), path + '/', depth + 1);
            } else {
                found_.push_back(path);
            }
        }
    }
    [[nodiscard]] std::vector<std::string> take() {
        std::sort(found_.begin(), found_.end());
        return std::move(found_);
    }

private:
    const Context& context_;
    std::vector<std::string> found_;
    std::size_t seen_ = 0;
};

}  // namespace

void prepare_library() {
    // Without its exit handler HDF5 does not touch files again that could not be written, which crashes 1.10.8.
    [[maybe_unused]] static const herr_t once = H5dont_atexit();
    // A thread-safe HDF5 keeps one error stack per thread.
    thread_local const herr_t quiet = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    (void)quiet;
}

void fail_call(const Context& context, std::string_view object) {
    std::string reason;
    const auto take_innermost = [](unsigned depth, const H5E_error2_t* entry, void* text) noexcept -> herr_t {
        if (depth == 0 && entry->desc != nullptr) {
            try {
                *static_cast<std::string*>(text) = entry->desc;
            } catch (...) {
                return -1;
            }
        }
        return 0;
    };
    (void)H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_innermost, &reason);
    (void)H5Eclear2(H5E_DEFAULT);

    // The file driver reports "..., errno = 28, error message = 'No space left on device', ...".
    const std::string_view number = between(reason, "errno = ", ",");
    int error = 0;
    (void)std::from_chars(number.data(), number.data() + number.size(), error);
    // The variable overrules file_access.
    const char* const locking = std::getenv("HDF5_USE_FILE_LOCKING");
    if (error != 0 && locking != nullptr && reason.find("unable to lock file") != std::string::npos) {
        fail(
            ExitCode::runtime_failure,
            "can't lock {} ({}; HDF5_USE_FILE_LOCKING = {} asks for it); unset HDF5_USE_FILE_LOCKING: moesaic needs no "
            "locks",
            context.file.string(), std::generic_category().message(error), locking);
    }
    if (error != 0) {
        context.writing ? fail_writing(context.file, error) : fail_reading(context.file, error);
    }
    const std::string what = printable(object);
    const std::string why = reason.empty() ? "HDF5 gives no reason" : printable(reason);
    if (context.writing) {
        fail(ExitCode::runtime_failure, "can't write {} ({}: {}); check the disk", context.file.string(), what, why);
    }
    fail(ExitCode::corrupt_input, "can't read {} ({}: {}); use another checkpoint", context.file.string(), what, why);
}

File create_file(const std::filesystem::path& path, const Context& context) {
    prepare_library();
    const Properties access = file_access(context);
    return File(check(H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, access.get()), context, "file"));
}

File open_file(const std::filesystem::path& path, const Context& context) {
    static_cast<void>(open_for_reading(path));  // HDF5 would wait for the writer of a FIFO
    prepare_library();
    const Properties access = file_access(context);
    return File(check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), context, "file"));
}

void write_attribute(const File& file, const std::string& name, std::string_view text, const Context& context) {
    const DataType type(check(H5Tcopy(H5T_C_S1), context, name));
    check(H5Tset_size(type.get(), std::max<std::size_t>(text.size(), 1)), context, name);
    check(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), context, name);
    check(H5Tset_cset(type.get(), H5T_CSET_UTF8), context, name);
    Attribute attribute = create_attribute(file, name, type.get(), context);
    const char* data = text.empty() ? "" : text.data();
    check(H5Awrite(attribute.get(), type.get(), data), context, name);
    attribute.close(context, name);
}

void write_attribute(const File& file, const std::string& name, std::uint64_t value, const Context& context) {
    Attribute attribute = create_attribute(file, name, H5T_STD_U64LE, context);
    check(H5Awrite(attribute.get(), H5T_NATIVE_UINT64, &value), context, name);
    attribute.close(context, name);
}

std::string read_text_attribute(const File& file, const std::string& name, std::size_t limit, const Context& context) {
    const ScalarAttribute attribute = open_attribute(file, name, H5T_STRING, context);
    const std::size_t size = H5Tget_size(attribute.type.get());
    require(H5Tis_variable_str(attribute.type.get()) == 0 && size > 0 && size <= limit, ExitCode::corrupt_input,
            "can't read {} (its attribute '{}' has an invalid size); use another checkpoint", context.file.string(),
            name);
    std::string text(size, '\0');
    check(H5Aread(attribute.handle.get(), attribute.type.get(), text.data()), context, name);
    text.erase(std::min(text.find('\0'), text.size()));
    return text;
}

std::uint64_t read_integer_attribute(const File& file, const std::string& name, const Context& context) {
    const ScalarAttribute attribute = open_attribute(file, name, H5T_INTEGER, context);
    require(H5Tget_size(attribute.type.get()) <= sizeof(std::uint64_t), ExitCode::corrupt_input,
            "can't read {} (its attribute '{}' has an invalid size); use another checkpoint", context.file.string(),
            name);
    std::uint64_t value = 0;
    check(H5Aread(attribute.handle.get(), H5T_NATIVE_UINT64, &value), context, name);
    return value;
}

std::vector<std::string> list_datasets(const File& file, const Context& context) {
    const Group root(check(H5Gopen2(file.get(), "/", H5P_DEFAULT), context, "/"));
    DatasetLister lister(context);
    lister.visit(root.get(), "", 0);
    return lister.take();
}

}  // namespace moesaic::io::hdf5
