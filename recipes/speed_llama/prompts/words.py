"""Word lists for the templates."""

from __future__ import annotations


def _list(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.replace("\n", " ").split(",") if entry.strip())


WORDS: dict[str, tuple[str, ...]] = {
    "job": _list(
        """nurse, plumber, librarian, beekeeper, translator, accountant, welder, florist, pilot, geologist, baker,
        carpenter, photographer, dentist, tailor, fisherman, violinist, chemist, gardener, bus driver, web developer,
        museum guide, midwife, brewer, electrician, judge, journalist, potter, surveyor, tax adviser, train driver,
        veterinarian, weaver, wood carver, night porter, paramedic, primary school teacher, physics teacher, cook,
        shepherd, glassblower, optician, piano tuner, security guard, ski instructor, social worker, statistician"""
    ),
    "object": _list(
        """umbrella, lantern, suitcase, kettle, bicycle, microscope, ladder, typewriter, camera, blanket, chessboard,
        telescope, guitar, notebook, compass, mirror, rug, teapot, wheelbarrow, drum, sewing machine, helmet, vase,
        wallet, thermos, kite, backpack, toolbox, flashlight, rocking chair, printer, rowing boat, accordion, globe,
        alarm clock, birdcage, sleeping bag, fishing rod, cake stand, map, barometer, hammock, stapler, bookshelf,
        radio, wine rack, saddle, tent, projector, scarf, jar of honey, bell, bucket, candlestick, basket, easel"""
    ),
    "adj": _list(
        """old, tiny, heavy, dusty, bright, wooden, rusty, elegant, broken, striped, spotless, borrowed, folding, quiet,
        handmade, silver, painted, spare, antique, waterproof, narrow, square, forgotten, polished, cheap, noisy,
        valuable, portable, curved, leather, plain, carved, enormous, faded, sturdy, second-hand"""
    ),
    "color": _list(
        """red, turquoise, beige, dark green, orange, violet, navy blue, cream, maroon, grey, lime green, pink, teal,
        mustard yellow, black, white, copper, lavender, olive, ivory"""
    ),
    "animal": _list(
        """otter, hedgehog, parrot, donkey, tortoise, heron, goat, ferret, owl, salmon, badger, camel, lizard, swan,
        rabbit, lynx, raven, seal, squirrel, pony, crab, bat, peacock, moose, falcon, gecko, hamster, wolf, toad"""
    ),
    "food": _list(
        """lentil soup, pancakes, mushroom risotto, apple pie, potato salad, grilled fish, noodles, omelette, dumplings,
        tomato soup, rice pudding, chicken curry, bean stew, onion tart, plum cake, stuffed peppers, garlic bread,
        fruit salad, vegetable lasagne, goulash, pumpkin soup, carrot cake, cheese toast, oat biscuits, spinach pie"""
    ),
    "ingredient": _list(
        """flour, sugar, butter, salt, eggs, milk, olive oil, onions, garlic, rice, lentils, basil, cinnamon, lemons,
        yoghurt, walnuts, raisins, carrots, mustard, honey, yeast, cream, ginger, thyme, tomatoes, chickpeas, almonds"""
    ),
    "plant": _list(
        """oak, maple, fern, tulip, cactus, lavender, sunflower, rosemary, ivy, birch, orchid, daisy, bamboo, willow,
        pumpkin, strawberry, mint, chestnut, lily, thistle"""
    ),
    "topic": _list(
        """photosynthesis, gravity, the water cycle, volcanoes, the human heart, inflation, democracy, vaccines,
        magnetism, black holes, the Roman Empire, the French Revolution, earthquakes, DNA, electricity, the moon,
        rainbows, tides, fossils, the immune system, sleep, glaciers, bees, coral reefs, printing, the steam engine,
        the Silk Road, solar panels, batteries, sound waves, the internet, encryption, databases, recursion, jazz,
        poetry, perspective in painting, chess openings, supply and demand, taxes, insurance, bridges, airplanes,
        submarines, the ozone layer, plastics, recycling, bread baking, fermentation, coffee, tea, chocolate, wool,
        the human eye, memory, habits, deserts, rainforests, migration of birds, penguins, dinosaurs, whales, spiders,
        the Great Wall of China, the pyramids, Vikings, the Renaissance, the printing press, algebra, prime numbers,
        probability, fractions, the Pythagorean theorem, logic, atoms, acids and bases, metals, clouds, thunderstorms,
        time zones, calendars, maps, languages, grammar, libraries, newspapers, elections, parliaments, courts"""
    ),
    "task": _list(
        """learn to swim, write a cover letter, grow tomatoes, save money, plan a birthday party, clean a carpet,
        train a puppy, prepare for a job interview, read more books, repair a flat tyre, move to a new flat,
        choose a laptop, stop biting my nails, host a dinner, paint a room, learn the guitar, get up earlier,
        write a short story, ask for a raise, start a small garden, pack for a long trip, calm down before an exam,
        run five kilometres, cook for ten people, learn a new language, organise my desk, find a hobby, sleep better,
        make new friends, give a speech, bake bread, buy a used car, write a thank-you note, learn to draw"""
    ),
    "hobby": _list(
        """stamp collecting, rock climbing, knitting, chess, birdwatching, pottery, hiking, amateur radio, origami,
        juggling, sailing, baking, astronomy, archery, painting, table tennis, gardening, choir singing, cycling,
        model railways, calligraphy, skating, yoga, photography, fencing, board games, swimming, bookbinding"""
    ),
    "room": _list(
        """cellar, attic, kitchen, workshop, library, garage, hallway, laundry room, greenhouse, office, storeroom,
        reading room, boathouse, stable, pantry, studio, waiting room, lobby, balcony, engine room, cloakroom"""
    ),
    "spot": _list(
        """under the stairs, behind the radiator, on the top shelf, beside the front door, in the bottom drawer,
        next to the window, inside the blue cupboard, below the sink, on the window sill, in the corner by the stove,
        behind the curtain, on the long table, under the workbench, in the metal cabinet, above the fireplace"""
    ),
    "material": _list(
        "oak, steel, glass, granite, cotton, paper, clay, brass, wool, bamboo, marble, linen, copper, felt, cork"
    ),
    "event": _list(
        """book fair, harvest festival, charity run, science night, chess tournament, job fair, spring concert,
        flower show, film evening, open day, swimming gala, street market, poetry reading, robotics contest,
        cooking class, history walk, blood drive, annual meeting, school play, photo exhibition, safety training"""
    ),
    "product": _list(
        """headset, desk lamp, rain jacket, blender, office chair, keyboard, water filter, yoga mat, coffee grinder,
        rain hat, baby monitor, air purifier, electric shaver, travel mug, phone case, wall clock, toaster,
        bread cutter, tablet stand, garden hose, smoke detector, board game, bicycle pump, space heater, pillow"""
    ),
    "vehicle": _list("van, ferry, tram, bus, tractor, motorbike, truck, sailing boat, minibus, night train, taxi"),
    "instrument": _list("cello, flute, trumpet, harp, clarinet, piano, banjo, oboe, violin, accordion, saxophone"),
    "department": _list(
        """accounting, logistics, customer service, research, quality control, sales, human resources, maintenance,
        procurement, marketing, the legal department, IT support, the warehouse, payroll, product design"""
    ),
    "country": _list(
        """Portugal, Norway, Chile, Kenya, Japan, Canada, Greece, Morocco, Vietnam, Iceland, Peru, Poland, India,
        Ireland, Egypt, Finland, Brazil, Thailand, Croatia, Ghana, Mexico, Austria, Nepal, Jordan, Uruguay, Estonia"""
    ),
    "language": _list("Spanish, Turkish, Swahili, Japanese, Polish, Arabic, Dutch, Hindi, Finnish, Greek, Italian"),
    "weekday": _list("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "month": _list("January, February, March, April, May, June, July, August, September, October, November, December"),
    "weather": _list(
        "light rain, thick fog, bright sunshine, heavy snow, strong wind, hail, drizzle, a thunderstorm, frost"
    ),
    "feeling": _list("happy, worried, tired, proud, confused, excited, annoyed, relieved, bored, nervous, grateful"),
    "reason": _list(
        """because the roof leaked, because of a strike, to save time, since nobody else was free, for safety reasons,
        because the budget was cut, after a long discussion, because the parts arrived late, as a favour to a friend,
        because the weather changed, to make room for new shelves, after two complaints, for the first time"""
    ),
    "did": _list(
        """repaired, sold, painted, borrowed, lost, found, cleaned, photographed, wrapped, measured, hid, inspected,
        bought, returned, moved, sketched, weighed, delivered, labelled, dismantled, described, packed"""
    ),
    "codeword": _list(
        """marmalade, thunderbird, periwinkle, cobalt, juniper, saffron, pendulum, zeppelin, quicksand, tangerine,
        obelisk, nightingale, gingerbread, labyrinth, bluebottle, cinnabar, dragonfly, evergreen, firestone, gondola,
        hazelnut, icebreaker, jackdaw, kingfisher, limestone, mandolin, nutmeg, oleander, parsnip, quartz, rosewood,
        sandpiper, trombone, undertow, velvet, windmill, yarrow, zinnia, applejack, birdsong, candlewax, driftwood"""
    ),
    "project": _list(
        """Amber Coast, Blue Anvil, Cedar, Northlight, Dandelion, Falcon Bridge, Granite, Harbour, Iris, Kingfisher,
        Lighthouse, Meadow, Nimbus, Orchard, Pinewood, Quarry, Redstart, Sundial, Tidewater, Violet, Willow, Zephyr"""
    ),
    "issue": _list(
        """arrived broken, does not switch on, makes a strange noise, is the wrong colour, stopped working after a week,
        has a missing part, smells of burnt plastic, is smaller than advertised, came without a manual,
        was delivered to a neighbour, shows an error message, gets far too hot, leaks, has a scratched surface"""
    ),
    "praise": _list(
        """works perfectly, looks better than in the pictures, was easy to set up, feels sturdy, saves me a lot of time,
        arrived a day early, is worth every penny, is very quiet, made a great gift, is comfortable to use"""
    ),
    "gerund": _list(
        """mending a fence, counting boxes, reading the newspaper, waiting for a parcel, polishing shoes,
        peeling potatoes, feeding the ducks, looking for a key, practising scales, writing postcards, sorting screws,
        watering the plants, drawing a map, sharpening pencils, sweeping the yard, listening to the radio"""
    ),
    "code_noun": _list(
        """orders, prices, users, words, scores, temperatures, files, names, tickets, pixels, tokens, tasks, items,
        lines, events, cities, weights, messages, readings, books, grades, distances"""
    ),
}
