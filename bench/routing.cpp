#include "bench/routing.hpp"

#include "core/random.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <span>

namespace moesaic::bench {
namespace {

using Hand = std::span<std::int32_t>;

/// Deals experts like cards: the whole deck before any expert is dealt again.
class Dealer {
public:
    Dealer(index_t first_expert, index_t experts, const core::CounterRandom& random)
        : first_(first_expert), experts_(experts), random_(random) {}

    /// Fills the hand, which holds `held` experts already, with different experts of the deck.
    void deal(Hand hand, std::size_t held) {
        for (; held < hand.size(); ++held) {
            const Hand so_far = hand.first(held);
            const auto is_new = [so_far](std::int32_t expert) {
                return std::find(so_far.begin(), so_far.end(), expert) == so_far.end();
            };
            auto card = std::find_if(deck_.begin(), deck_.end(), is_new);
            if (card == deck_.end()) {
                add_shuffled_deck();
                card = std::find_if(deck_.begin(), deck_.end(), is_new);
            }
            hand[held] = *card;
            deck_.erase(card);
        }
    }

private:
    void add_shuffled_deck() {
        std::vector<std::int32_t> fresh(static_cast<std::size_t>(experts_));
        std::iota(fresh.begin(), fresh.end(), static_cast<std::int32_t>(first_));
        for (std::size_t i = fresh.size(); i > 1; --i) {
            std::swap(fresh[i - 1], fresh[random_.below(draws_++, i)]);
        }
        deck_.insert(deck_.end(), fresh.begin(), fresh.end());
    }

    index_t first_;
    index_t experts_;
    const core::CounterRandom& random_;
    std::vector<std::int32_t> deck_;  // what is left of earlier decks first
    std::uint64_t draws_ = 0;
};

void deal_uniform(core::MatrixView<std::int32_t> ids, index_t experts, const core::CounterRandom& random) {
    Dealer dealer(0, experts, random);
    for (index_t t = 0; t < ids.rows(); ++t) {
        dealer.deal(ids.row(t), 0);
    }
}

/// The K largest of log(popularity) + Gumbel noise are K draws without replacement (Kool et al., ICML 2019).
void draw_skewed(core::MatrixView<std::int32_t> ids, index_t experts, const core::CounterRandom& random) {
    const auto count = static_cast<std::size_t>(experts);
    std::vector<double> score(count);
    std::vector<std::int32_t> order(count);
    for (index_t t = 0; t < ids.rows(); ++t) {
        for (std::size_t e = 0; e < count; ++e) {
            const double u = random.uniform(static_cast<std::uint64_t>(t) * count + e) + 0x1p-54;
            score[e] = -std::log(static_cast<double>(e + 1)) - std::log(-std::log(u));
        }
        std::iota(order.begin(), order.end(), 0);
        std::partial_sort(order.begin(), order.begin() + ids.cols(), order.end(), [&](std::int32_t a, std::int32_t b) {
            return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)];
        });
        std::copy_n(order.begin(), ids.cols(), ids[t]);
    }
}

void deal_hot(core::MatrixView<std::int32_t> ids, index_t experts, const core::CounterRandom& random) {
    Dealer dealer(1, experts - 1, random);
    for (index_t t = 0; t < ids.rows(); ++t) {
        ids(t, 0) = 0;
        dealer.deal(ids.row(t), 1);
    }
}

void choose(Routing routing, core::MatrixView<std::int32_t> ids, index_t experts, const core::CounterRandom& random) {
    switch (routing) {
        case Routing::uniform:
            return deal_uniform(ids, experts, random);
        case Routing::skewed:
            return draw_skewed(ids, experts, random);
        case Routing::hot:
            return deal_hot(ids, experts, random);
    }
}

}  // namespace

index_t Routes::experts_in_use() const {
    const auto ids = experts.flat();
    return static_cast<index_t>(std::set<std::int32_t>(ids.begin(), ids.end()).size());
}

Routes make_routes(Routing routing, index_t tokens, const LayerShape& shape, std::uint64_t seed) {
    Routes routes;
    routes.experts.resize(tokens, shape.experts_per_token);
    routes.weights.resize(tokens, shape.experts_per_token);
    choose(routing, routes.experts.view(), shape.experts, core::CounterRandom(seed, 0));
    const core::CounterRandom random(seed, 1);
    std::uint64_t draws = 0;
    for (index_t t = 0; t < tokens; ++t) {
        const auto weights = routes.weights.view().row(t);
        std::generate(weights.begin(), weights.end(),
                      [&] { return 0.1F + static_cast<float>(random.uniform(draws++)); });
        const float sum = std::accumulate(weights.begin(), weights.end(), 0.0F);
        std::transform(weights.begin(), weights.end(), weights.begin(), [sum](float w) { return w / sum; });
    }
    return routes;
}

}  // namespace moesaic::bench
