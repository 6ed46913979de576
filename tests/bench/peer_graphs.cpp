// Counts the nodes of stable-diffusion.cpp's graphs of models at their real size; no weights, nothing is computed.
//
//   pip download --no-deps --no-binary :all: stable-diffusion-cpp-python==0.4.7 and unpack it; P: vendor/stable-diffusion.cpp
//   g++ -std=c++17 -fno-access-control -DGGML_MAX_NAME=128 -DGGML_USE_CPU -I$P/src -I$P/include -I$P/ggml/include
//       -I$P/thirdparty -I$P tests/bench/peer_graphs.cpp -o peer_graphs -L$LIB -lstable-diffusion -Wl,-rpath,$LIB
//   LIB: stable_diffusion_cpp/lib of the installed package. ./peer_graphs sd15|sdxl|z-image|qwen-image|wan
//
// Inputs are those of tests/bench/real_models.py. Each graph with and without flash attention and direct convolutions.

#include "unet.hpp"
#include "z_image.hpp"
#include "qwen_image.hpp"
#include "wan.hpp"

#include <cstdio>
#include <map>

using Input = sd::Tensor<float>;

static void print(const std::string& name, ggml_cgraph* graph) {
    std::map<std::string, int> counts;
    int nodes = ggml_graph_n_nodes(graph), views = 0;
    for (int i = 0; i < nodes; i++) {
        ggml_tensor* node = ggml_graph_node(graph, i);
        views += node->op == GGML_OP_VIEW || node->op == GGML_OP_RESHAPE || node->op == GGML_OP_PERMUTE ||
                 node->op == GGML_OP_TRANSPOSE || node->op == GGML_OP_NONE;
        counts[ggml_op_desc(node)]++;
    }
    printf("%s: %d nodes, %d without views\n ", name.c_str(), nodes, nodes - views);
    for (auto& [operation, count] : counts) printf(" %s %d", operation.c_str(), count);
    printf("\n");
}

template <class Runner, class Build>
static void count(const std::string& name, Runner& runner, Build build) {
    for (bool flash : {false, true}) {
        for (bool direct : {false, true}) {
            runner.set_flash_attention_enabled(flash);
            runner.set_conv2d_direct_enabled(direct);
            runner.reset_compute_ctx();
            print(name + (flash ? ", flash" : "") + (direct ? ", direct" : ""), runner.get_compute_graph(build));
        }
    }
}

static String2TensorStorage last_block(const std::string& tensor) {
    String2TensorStorage found;
    found[tensor] = TensorStorage();
    return found;
}

int main(int argc, char** argv) {
    ggml_backend_t cpu = ggml_backend_cpu_init();
    std::string name = argc > 1 ? argv[1] : "";
    auto in = [](std::vector<int64_t> ne) { return Input(ne); };
    if (name == "sd15") {
        UNetModelRunner runner(cpu, false, {}, "m", VERSION_SD1);
        count(name, runner, [&] { return runner.build_graph(in({64, 64, 4, 1}), in({1}), in({768, 77, 1})); });
    } else if (name == "sdxl") {
        UNetModelRunner runner(cpu, false, {}, "m", VERSION_SDXL);
        count(name, runner, [&] {
            return runner.build_graph(in({128, 128, 4, 1}), in({1}), in({2048, 77, 1}), {}, in({2816, 1}));
        });
    } else if (name == "z-image") {
        ZImage::ZImageRunner runner(cpu, false);
        count(name, runner, [&] { return runner.build_graph(in({128, 128, 16, 1}), in({1}), in({2560, 100, 1})); });
    } else if (name == "qwen-image") {
        Qwen::QwenImageRunner runner(cpu, false, last_block("transformer_blocks.59.x"));
        count(name, runner, [&] { return runner.build_graph(in({128, 128, 16, 1}), in({1}), in({3584, 100, 1})); });
    } else if (name == "wan") {
        WAN::WanRunner runner(cpu, false, last_block("blocks.39.x"));
        count(name, runner, [&] { return runner.build_graph(in({104, 60, 21, 16}), in({1}), in({4096, 512, 1})); });
    }
}
